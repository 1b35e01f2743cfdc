use windlass_model::backend::NoLog;
use windlass_model::call::{
    DockerCall, FileOp, GitCall, HttpBody, HttpCall, LeaseCall, RegistryCall, ReleasesCall,
    ReleasesOp, SshCall, SshOp, TargetCall, TargetOp,
};
use windlass_model::{CallId, ErrorKind, RunId, StepKey};

use super::*;

const TTL: Duration = Duration::from_secs(60);

/// Answers all calls well, or with this error, and remembers them.
#[derive(Default)]
struct World {
    made: Mutex<Vec<String>>,
    error: Option<CallError>,
}

#[async_trait]
impl Capability for World {
    async fn call(&self, _: &CallContext, call: Call) -> Result<Reply, CallError> {
        self.made.lock().expect("alive").push(call.name());
        self.error.clone().map_or(Ok(Reply::Done), Err)
    }
}

/// An engine whose lease was renewed so long ago.
struct Engine {
    fenced: Arc<Fenced>,
    world: Arc<World>,
}

impl Engine {
    fn renewed(ago: Duration) -> Self {
        Self::in_world(ago, World::default())
    }

    fn in_world(ago: Duration, world: World) -> Self {
        let leases = Leases::default();
        leases.set_ttl(Some(TTL));
        // As after the machine slept: only one of the two clocks went on.
        leases.renewed.send_replace(Renewed {
            at: Instant::now(),
            wall: SystemTime::now() - ago,
        });
        let world = Arc::new(world);
        let fenced = Fenced {
            leases: Arc::new(leases),
            cancel: CancellationToken::new(),
            next: Arc::clone(&world) as Arc<dyn Capability>,
        };
        Self {
            fenced: Arc::new(fenced),
            world,
        }
    }

    fn leases(&self) -> &Leases {
        &self.fenced.leases
    }

    fn made(&self) -> Vec<String> {
        self.world.made.lock().expect("alive").clone()
    }

    /// Makes a call that has so much time.
    fn call(
        &self,
        call: Call,
        time: Duration,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Reply, CallError>> + use<> {
        let fenced = Arc::clone(&self.fenced);
        let context = CallContext {
            id: CallId {
                run: RunId(uuid::Uuid::nil()),
                step: StepKey::new("push", None),
                attempt: 1,
                seq: 1,
            },
            deadline: Instant::now() + time,
            cancel,
            log: Arc::new(NoLog),
            blobs: Arc::default(),
            answered: Default::default(),
        };
        async move { fenced.call(&context, call).await }
    }

    /// Begins a push, which waits for the lease, and has asked for its renewal.
    async fn waiting(
        &self,
        cancel: CancellationToken,
    ) -> tokio::task::JoinHandle<Result<Reply, CallError>> {
        let pushing = tokio::spawn(self.call(push(), TTL, cancel));
        let asked = tokio::time::timeout(TTL, self.leases().nudge.notified()).await;
        assert!(asked.is_ok(), "it did not ask for a renewal");
        assert!(self.made().is_empty());
        pushing
    }
}

fn docker(op: DockerOp) -> Call {
    Call::Docker(DockerCall {
        engine: TargetName::local(),
        op,
    })
}

fn push() -> Call {
    docker(DockerOp::Push {
        image: "app:1".into(),
    })
}

fn http(method: &str) -> Call {
    Call::Http(HttpCall {
        method: method.into(),
        url: "http://localhost/".into(),
        headers: Vec::new(),
        body: HttpBody::Empty,
        timeout_ms: 1_000,
        max_redirects: 0,
        via: None,
        max_body: 0,
    })
}

fn exec() -> Call {
    Call::Ssh(SshCall {
        target: on_prod(),
        op: SshOp::Exec {
            argv: vec!["true".into()],
            env: Vec::new(),
            stdin: None,
            dir: None,
        },
    })
}

fn on_prod() -> TargetName {
    TargetName::from("prod_1")
}

fn lost_error() -> CallError {
    CallError::conflict(LOST, "another run went on")
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_renewed_in_time_lets_all_pass() {
    let engine = Engine::renewed(TTL / 3);
    for call in [push(), http("POST"), docker(DockerOp::Info)] {
        let answer = engine.call(call, TTL, CancellationToken::new()).await;
        assert_eq!(answer, Ok(Reply::Done));
    }
    assert_eq!(engine.made(), ["docker.push", "http.POST", "docker.info"]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_slept_asks_before_its_next_effect() {
    let engine = Engine::renewed(TTL * 2);
    let pushing = engine.waiting(CancellationToken::new()).await;
    engine.leases().renewed.send_replace(Renewed::now());
    assert_eq!(pushing.await.expect("no panic"), Ok(Reply::Done));
    assert_eq!(engine.made(), ["docker.push"]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_lost_its_lease_has_no_effect() {
    let engine = Engine::renewed(TTL * 2);
    let cancel = CancellationToken::new();
    let pushing = engine.waiting(cancel.clone()).await;
    // As the heartbeat does it.
    engine.leases().lose(lost_error());
    cancel.cancel();
    assert_eq!(pushing.await.expect("no panic"), Err(lost_error()));
    // And from then on, although it was renewed on another target meanwhile.
    engine.leases().renewed.send_replace(Renewed::now());
    for call in [push(), http("POST"), http("PUT")] {
        let answer = engine.call(call, TTL, CancellationToken::new()).await;
        assert_eq!(answer, Err(lost_error()));
    }
    assert!(engine.made().is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_waits_no_longer_than_its_call_may() {
    let engine = Engine::renewed(TTL * 2);
    let cancel = CancellationToken::new();
    let pushing = engine.waiting(cancel.clone()).await;
    cancel.cancel();
    assert_eq!(
        pushing.await.expect("no panic"),
        Err(CallError::cancelled())
    );
    let late = engine.call(push(), Duration::ZERO, CancellationToken::new());
    let error = late.await.expect_err("its deadline passed");
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Timeout, "lease.unknown")
    );
    assert!(engine.made().is_empty());
}

/// What changes nothing, what the target compares by itself, and cleaning up.
#[tokio::test(start_paused = true)]
async fn what_needs_no_lease_does_not_wait_for_it() {
    let engine = Engine::renewed(TTL * 2);
    engine.leases().lose(lost_error());
    let calls = [
        docker(DockerOp::InspectImage {
            image: "app:1".into(),
        }),
        docker(DockerOp::RemoveContainer {
            id: "c0ffee".into(),
            grace_ms: 0,
        }),
        http("GET"),
        Call::Registry(RegistryCall::Tags {
            repository: "app".into(),
        }),
        Call::Git(GitCall::Inspect),
        Call::Target(TargetCall {
            target: on_prod(),
            op: TargetOp::Apply {
                ops: vec![FileOp::MakeDirectory {
                    path: "/srv/app".into(),
                    mode: 0o755,
                }],
            },
        }),
        exec(),
        Call::Releases(ReleasesCall {
            target: on_prod(),
            dir: "/srv/app".into(),
            op: ReleasesOp::List,
        }),
        Call::Lease(LeaseCall {
            target: on_prod(),
            path: "/srv/app/.windlass-lease".into(),
            op: LeaseOp::Release,
        }),
    ];
    let count = calls.len();
    for call in calls {
        let answer = engine.call(call, Duration::ZERO, CancellationToken::new());
        assert_eq!(answer.await, Ok(Reply::Done));
    }
    assert_eq!(engine.made().len(), count);
}

#[tokio::test(start_paused = true)]
async fn after_the_steps_nothing_needs_a_lease() {
    let engine = Engine::renewed(TTL * 2);
    engine.leases().settle();
    let told = engine.call(http("POST"), TTL, CancellationToken::new());
    assert_eq!(told.await, Ok(Reply::Done));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_refuses_ends_the_run() {
    let refusing = || World {
        error: Some(lost_error()),
        ..World::default()
    };
    let engine = Engine::in_world(Duration::ZERO, refusing());
    let answer = engine.call(exec(), TTL, CancellationToken::new()).await;
    assert_eq!(answer, Err(lost_error()));
    assert!(engine.fenced.cancel.is_cancelled());
    assert_eq!(engine.leases().lost(), Some(lost_error()));

    // The heartbeat says by itself what its own answer means.
    let engine = Engine::in_world(Duration::ZERO, refusing());
    let renew = Call::Lease(LeaseCall {
        target: on_prod(),
        path: "/srv/app/.windlass-lease".into(),
        op: LeaseOp::Renew { ttl_ms: 1 },
    });
    let answer = engine.call(renew, TTL, CancellationToken::new()).await;
    assert_eq!(answer, Err(lost_error()));
    assert!(!engine.fenced.cancel.is_cancelled());
    assert_eq!(engine.leases().lost(), None);
}
