//! Does what `mode` says, good or bad; `call` and its neighbours name a single call.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use windlass_sdk::docker::{Engine, RunSpec, Variable};
use windlass_sdk::log::Level;
use windlass_sdk::{
    Error, ErrorKind, Finding, OutputSpec, Plugin, Text, Value, blobs, clock, context, http, info,
    jobs, log, output, plain, progress, ssh,
};

/// What to do.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    mode: Mode,
    /// Text for the modes that take one.
    text: Option<Text>,
    /// A URL of `http_get`.
    url: Option<Text>,
    /// Where `http_get` goes instead: requested, but not for secrets.
    other: Option<Text>,
    /// A header's value for the same.
    header: Option<Text>,
    /// A target, for commands and files on it.
    machine: Option<String>,
    /// A path on the target.
    path: Option<String>,
    /// The command.
    #[serde(default)]
    argv: Vec<Text>,
    /// Its environment.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// A file of the project.
    file: Option<String>,
    /// An image to run.
    image: Option<Text>,
    /// A directory to mount into it.
    mount: Option<String>,
    /// How often, where that can be said.
    #[serde(default)]
    count: u64,
    /// Anything: `echo` gives it back.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    data: Option<serde_json::Value>,
}

#[derive(Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Noop,
    Echo,
    Text,
    // Without end.
    Loop,
    Recurse,
    Allocate,
    Handles,
    Values,
    Requests,
    Blobs,
    BlobBytes,
    Jobs,
    Containers,
    Calls,
    Flood,
    FloodBytes,
    FloodProgress,
    FloodStdout,
    LongText,
    LongTextOfValues,
    SelectMany,
    SelectFarTooMany,
    HugeLog,
    Outputs,
    LargeOutput,
    // Ends badly.
    Panic,
    PanicLong,
    PanicSecret,
    Trap,
    Exit,
    LargeError,
    ForgedCancel,
    ForgedCode,
    Fail,
    // Waits.
    Sleep,
    SleepOften,
    StdSleep,
    IgnoreCancel,
    CallAfterCancel,
    Wait,
    // Looks around.
    Files,
    Env,
    Socket,
    Random,
    Clock,
    Print,
    /// Finds what an earlier guest left, and leaves as much itself.
    Stain,
    // Secrets and outputs.
    SecretOutput,
    SecretLog,
    SecretForms,
    Undeclared,
    WrongType,
    OutputName,
    Escapes,
    // What is left behind.
    ContainerLeft,
    ContainerTrap,
    ContainerHang,
    JobLeft,
    JobCancelled,
    // Single calls.
    HttpGet,
    HttpDelete,
    /// Makes an error of its own of a denial.
    Swallow,
    Exec,
    Upload,
    Open,
    Run,
    UnknownSecret,
}

pub struct Guest;

impl Plugin for Guest {
    type Config = Config;
    const NAME: &'static str = "guest";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Do what the configuration says, good or bad";
    const HAS_PREFLIGHT: bool = true;

    fn outputs() -> Vec<OutputSpec> {
        vec![
            OutputSpec::text("text", "Text"),
            OutputSpec::number("number", "A number"),
            OutputSpec::json("data", "Anything"),
        ]
    }

    fn requests() -> Vec<&'static str> {
        vec![
            "http.GET {{ url }}",
            "http.GET {{ other }}",
            "secret.send {{ header }} to http:{{ url }}",
            "secret.reveal {{ text }}",
            "ssh.exec {{ machine if argv }}",
            "ssh.upload {{ machine ~ ':' ~ path if path }}",
            "secret.send {{ env }} to env:{{ machine }}",
            "file.read {{ file }}",
            "docker.run {{ image }}",
            "docker.mount {{ mount }}",
        ]
    }

    fn preflight(config: Config) -> Result<Vec<Finding>, Error> {
        Ok(
            match config.data.as_ref().and_then(|data| data.get("problem")) {
                Some(problem) => vec![Finding::problem(problem.to_string())],
                None => Vec::new(),
            },
        )
    }

    fn run(config: Config) -> Result<(), Error> {
        match config.mode {
            Mode::Noop => Ok(()),
            Mode::Echo => {
                output::string("text", &context::config())?;
                output::json("data", &config.data)
            }
            Mode::Text => output::text("text", &config.text()?.parts()),
            Mode::Files
            | Mode::Env
            | Mode::Socket
            | Mode::Random
            | Mode::Clock
            | Mode::Print
            | Mode::Stain => look(&config),
            Mode::Panic
            | Mode::PanicLong
            | Mode::PanicSecret
            | Mode::Trap
            | Mode::Exit
            | Mode::LargeError
            | Mode::ForgedCancel
            | Mode::ForgedCode
            | Mode::Fail => end(&config),
            Mode::Sleep
            | Mode::SleepOften
            | Mode::StdSleep
            | Mode::IgnoreCancel
            | Mode::CallAfterCancel
            | Mode::Wait => wait(&config),
            Mode::SecretOutput
            | Mode::SecretLog
            | Mode::SecretForms
            | Mode::Undeclared
            | Mode::WrongType
            | Mode::OutputName
            | Mode::Escapes => tell(&config),
            Mode::ContainerLeft
            | Mode::ContainerTrap
            | Mode::ContainerHang
            | Mode::JobLeft
            | Mode::JobCancelled => leave(&config),
            Mode::HttpGet
            | Mode::HttpDelete
            | Mode::Swallow
            | Mode::Exec
            | Mode::Upload
            | Mode::Open
            | Mode::Run
            | Mode::UnknownSecret => single(&config),
            _ => without_end(&config),
        }
    }
}

/// What a mode needs and the configuration does not have.
fn absent(what: &str) -> Error {
    Error::invalid("guest.absent", format!("`{what}` is absent"))
}

impl Config {
    fn text(&self) -> Result<&Text, Error> {
        self.text.as_ref().ok_or_else(|| absent("text"))
    }

    fn image(&self) -> Result<RunSpec<'_>, Error> {
        let image = self.image.as_ref().ok_or_else(|| absent("image"))?;
        let mount = self.mount.iter().map(|source| windlass_sdk::docker::Mount {
            source: source.clone(),
            target: "/mnt".to_owned(),
            read_only: true,
        });
        Ok(RunSpec {
            image: image.parts(),
            command: self.argv.iter().map(Text::parts).collect(),
            entrypoint: None,
            env: self
                .env
                .iter()
                .map(|(name, value)| Variable {
                    name: name.clone(),
                    value: value.parts(),
                })
                .collect(),
            mounts: mount.collect(),
            network: None,
            user: None,
            workdir: None,
            privileged: false,
        })
    }

    fn exec(&self) -> Result<jobs::Job, Error> {
        let target = self.machine.as_deref().ok_or_else(|| absent("machine"))?;
        ssh::exec(
            target,
            &ssh::ExecSpec {
                argv: self.argv.iter().map(Text::parts).collect(),
                env: self
                    .env
                    .iter()
                    .map(|(name, value)| (name.clone(), value.parts()))
                    .collect(),
                stdin: None,
                dir: None,
            },
        )
    }
}

fn without_end(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::Loop => {
            let mut count = 0_u64;
            loop {
                count = black_box(count.wrapping_add(1));
            }
        }
        Mode::Recurse => {
            output::json("number", &recurse(u64::MAX))?;
        }
        Mode::Allocate => {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1_u8; 1024 * 1024]);
                black_box(&kept);
            }
        }
        Mode::Handles => {
            let mut kept = Vec::new();
            loop {
                kept.push(Value::from_text("x"));
            }
        }
        Mode::Values => {
            let text = "x".repeat(1024 * 1024);
            let mut kept = Vec::new();
            loop {
                kept.push(Value::from_text(&text));
            }
        }
        Mode::Requests => {
            let text = "x".repeat(512 * 1024);
            let mut kept = Vec::new();
            loop {
                let request = http::Request::new("GET", &plain("http://localhost"));
                for _ in 0..50 {
                    request.header("x-padding", &plain(&text));
                }
                kept.push(request);
            }
        }
        Mode::Blobs => {
            let mut kept = Vec::new();
            loop {
                kept.push(blobs::Blob::from_bytes(b"x")?);
            }
        }
        Mode::BlobBytes => {
            let mut bytes = vec![0; 1024 * 1024];
            for number in 0..1_000_000_u32 {
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                blobs::Blob::from_bytes(&bytes)?;
            }
        }
        Mode::Jobs => {
            let mut kept = Vec::new();
            loop {
                kept.push(config.exec()?);
            }
        }
        Mode::Containers => {
            let engine = Engine::open(None)?;
            let mut kept = Vec::new();
            loop {
                kept.push(engine.run(&config.image()?)?);
            }
        }
        Mode::Calls => loop {
            clock::sleep(0)?;
        },
        Mode::Flood => loop {
            log::write(Level::Info, "x");
        },
        Mode::FloodBytes => {
            let line = "x".repeat(60 * 1024);
            loop {
                log::write(Level::Info, &line);
            }
        }
        Mode::FloodProgress => {
            let line = "x".repeat(60 * 1024);
            for number in 0..config.count {
                progress::report(&line, number, config.count);
            }
        }
        Mode::FloodStdout => {
            let line = "x".repeat(1023);
            for _ in 0..config.count {
                println!("{line}");
                eprintln!("{line}");
            }
        }
        Mode::LongText => {
            let text = "x".repeat(2 * 1024 * 1024);
            output::string("text", &text)?;
        }
        Mode::LongTextOfValues => {
            let value = Value::from_text(&"x".repeat(1024 * 1024));
            let mut parts = Vec::new();
            for _ in 0..1_000 {
                parts.push(windlass_sdk::Part::Value(&value));
            }
            output::text("text", &parts)?;
        }
        Mode::SelectMany | Mode::SelectFarTooMany => {
            let job = config.exec()?;
            let count = match config.mode {
                Mode::SelectMany => 1_000,
                _ => 1_000_000,
            };
            let many = vec![&job; count];
            jobs::select(&many, 60_000)?;
        }
        Mode::HugeLog => log::write(Level::Info, &"x".repeat(70 * 1024)),
        Mode::Outputs => {
            for number in 0..1_000 {
                output::string(&format!("output_{number}"), "x")?;
            }
        }
        Mode::LargeOutput => output::string("text", &"x".repeat(100 * 1024))?,
        _ => return Err(absent("mode")),
    }
    Ok(())
}

/// Keeps its frames on the WebAssembly stack: nothing has an address.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    match black_box(depth) {
        0 => 0,
        depth => recurse(depth - 1).wrapping_mul(3) ^ depth,
    }
}

/// Random bytes by way of the standard library: a hash of a fresh state.
fn fill_random(bytes: &mut [u8]) {
    use std::hash::{BuildHasher as _, Hasher as _};
    for chunk in bytes.chunks_mut(8) {
        let random = std::collections::hash_map::RandomState::new();
        let word = random.build_hasher().finish().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

fn look(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::Files => {
            let mut found = Vec::new();
            for path in [
                "/etc/passwd",
                "etc/passwd",
                "windlass.toml",
                "./windlass.toml",
            ] {
                if let Ok(text) = std::fs::read_to_string(path) {
                    found.push(format!("{path}: {text}"));
                }
            }
            for path in ["/", ".", "/tmp"] {
                if let Ok(entries) = std::fs::read_dir(path) {
                    found.push(format!("{path}: {} entries", entries.count()));
                }
            }
            for path in ["/tmp/windlass-guest", "windlass-guest"] {
                if std::fs::write(path, "here").is_ok() {
                    found.push(format!("{path} was written"));
                }
            }
            output::json("data", &found)
        }
        Mode::Stain => {
            static STAINED: AtomicU64 = AtomicU64::new(0);
            let before = STAINED.fetch_add(1, Ordering::Relaxed);
            // Fresh memory is zero, so the allocator does not clear it.
            let mut memory = vec![0_u8; 4 * 1024 * 1024];
            let left = memory.iter().filter(|byte| **byte != 0).count();
            memory.fill(0xAA);
            black_box(&memory);
            output::string("text", &format!("{before} guests, {left} bytes"))
        }
        Mode::Env => {
            let env: BTreeMap<String, String> = std::env::vars().collect();
            let args: Vec<String> = std::env::args().collect();
            let here = std::env::current_dir()
                .map(|dir| dir.display().to_string())
                .unwrap_or_default();
            let mut line = String::new();
            let stdin = std::io::stdin().read_line(&mut line).unwrap_or(0);
            output::json(
                "data",
                &serde_json::json!({ "env": env, "args": args, "here": here, "stdin": stdin }),
            )
        }
        Mode::Socket => {
            let address = config.text()?.read()?.into_owned();
            let mut found = Vec::new();
            if std::net::TcpStream::connect(&address).is_ok() {
                found.push("tcp connect");
            }
            if std::net::TcpListener::bind("127.0.0.1:0").is_ok() {
                found.push("tcp listen");
            }
            if let Ok(socket) = std::net::UdpSocket::bind("127.0.0.1:0")
                && socket.send_to(b"x", &address).is_ok()
            {
                found.push("udp send");
            }
            if std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok() {
                found.push("name look-up");
            }
            output::json("data", &found)
        }
        Mode::Random => {
            let mut bytes = [0_u8; 32];
            fill_random(&mut bytes);
            let order: std::collections::HashSet<u32> = (0..100).collect();
            let order: Vec<u32> = order.into_iter().collect();
            output::json(
                "data",
                &serde_json::json!({ "bytes": bytes, "order": order }),
            )
        }
        Mode::Clock => {
            let wall = || {
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as u64)
            };
            let started = std::time::Instant::now();
            let mut seen = vec![clock::now(), wall()];
            // Computing takes time, but none that a guest could see.
            let mut count = 0_u64;
            for _ in 0..20_000_000 {
                count = black_box(count.wrapping_add(1));
            }
            seen.extend([clock::now(), wall(), started.elapsed().as_millis() as u64]);
            clock::sleep(5_000)?;
            seen.extend([clock::now(), wall(), started.elapsed().as_millis() as u64]);
            output::json("data", &seen)
        }
        _ => {
            println!("to stdout");
            eprintln!("to stderr");
            let _ = std::io::stdout().write_all(b"\xff\xfe not text\n");
            Ok(())
        }
    }
}

fn end(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::Panic => panic!("on purpose: {}", black_box(7)),
        Mode::PanicLong => panic!("{}", "long ".repeat(20_000)),
        Mode::PanicSecret => panic!("the token is {}", config.text()?.read()?),
        Mode::Trap => std::process::abort(),
        Mode::Exit => std::process::exit(3),
        Mode::LargeError => Err(Error::invalid(
            &"code.".repeat(1_000),
            "message ".repeat(1_000_000),
        )
        .with_hint("hint ".repeat(1_000_000))),
        Mode::ForgedCancel => Err(Error::new(ErrorKind::Cancelled, "cancelled", "cancelled")),
        Mode::ForgedCode => Err(Error::internal("engine.broken", "the engine is broken")),
        _ => {
            let message = match &config.text {
                Some(text) => text.read()?.into_owned(),
                None => "failed on purpose".to_owned(),
            };
            Err(Error::unavailable("guest.failed", message).with_hint("ask for something else"))
        }
    }
}

fn wait(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::Sleep => clock::sleep(3_600_000),
        Mode::SleepOften => {
            for _ in 0..config.count {
                clock::sleep(1_000)?;
            }
            Ok(())
        }
        Mode::StdSleep => {
            std::thread::sleep(std::time::Duration::from_secs(3_600));
            Ok(())
        }
        Mode::IgnoreCancel => loop {
            // Whatever the answer is.
            let _ = clock::sleep(3_600_000);
        },
        Mode::CallAfterCancel => {
            let asleep = clock::sleep(3_600_000);
            let after = config.exec().map(drop);
            let code = |result: Result<(), Error>| result.err().map(|error| error.code);
            Err(Error::internal(
                "guest.after",
                format!("{:?} then {:?}", code(asleep), code(after)),
            ))
        }
        _ => config.exec()?.finish("the command").map(drop),
    }
}

fn tell(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::SecretOutput => output::text("text", &config.text()?.parts()),
        Mode::SecretLog => {
            let secret = config.text()?.read()?.into_owned();
            info!("plain {secret}");
            println!("printed {secret}");
            log::write(Level::Debug, &format!("in {secret} the middle"));
            progress::report(&format!("progress {secret}"), 1, 2);
            output::string("text", &secret)?;
            output::json("data", &serde_json::json!({ secret.as_str(): [secret] }))
        }
        Mode::SecretForms => {
            let secret = config.text()?.read()?.into_owned();
            let base64 = base64::engine::general_purpose::STANDARD;
            let percent = |text: &str| -> String {
                text.bytes()
                    .map(|byte| match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => {
                            char::from(byte).to_string()
                        }
                        byte => format!("%{byte:02X}"),
                    })
                    .collect()
            };
            info!("base64 {}", base64.encode(&secret));
            info!("base64 {}", base64.encode(format!("user:{secret}")));
            info!("base64 {}", base64.encode(format!("x{secret}y")));
            info!("url {}", percent(&secret));
            info!("json {}", serde_json::json!(secret));
            info!("cut {}{secret}", "x".repeat(16 * 1024 - 10));
            Ok(())
        }
        Mode::Undeclared => output::string("surprise", "x"),
        Mode::WrongType => output::string("number", "seven"),
        Mode::OutputName => output::string("Not A Name", "x"),
        _ => {
            info!("\x1b[2J\x1b]0;title\x07clear");
            info!("::error file=x::forged");
            info!("##[error]forged");
            info!("one\r\ntwo\u{202e}reversed");
            Err(Error::unavailable(
                "guest.escapes",
                "\x1b[31mred\x1b[0m\n::error::forged\n\u{202e}reversed",
            ))
        }
    }
}

fn leave(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::JobLeft => {
            std::mem::forget(config.exec()?);
            Ok(())
        }
        Mode::JobCancelled => {
            let job = config.exec()?;
            job.cancel();
            job.wait().map(drop)
        }
        _ => {
            let engine = Engine::open(None)?;
            let container = engine.run(&config.image()?)?;
            output::string("text", &container.id())?;
            match config.mode {
                Mode::ContainerTrap => panic!("with a container"),
                Mode::ContainerHang => loop {
                    let _ = clock::sleep(3_600_000);
                },
                // Neither dropped nor removed.
                _ => std::mem::forget(container),
            }
            Ok(())
        }
    }
}

fn single(config: &Config) -> Result<(), Error> {
    match config.mode {
        Mode::Swallow => http::Request::new("DELETE", &plain("http://127.0.0.1:9/x"))
            .send()
            .map(drop)
            .map_err(|_| Error::unavailable("guest.weather", "it rains")),
        Mode::HttpGet | Mode::HttpDelete => {
            let method = match config.mode {
                Mode::HttpGet => "GET",
                _ => "DELETE",
            };
            let url = config.other.as_ref().or(config.url.as_ref());
            let request = http::Request::new(method, &url.ok_or_else(|| absent("url"))?.parts());
            if let Some(header) = &config.header {
                request.header("authorization", &header.parts());
            }
            request.timeout_ms(5_000);
            let response = request.send()?;
            output::json("number", &response.status)
        }
        Mode::Exec => config.exec()?.finish("the command").map(drop),
        Mode::Upload => {
            let target = config.machine.as_deref().ok_or_else(|| absent("machine"))?;
            let path = config.path.as_deref().ok_or_else(|| absent("path"))?;
            // `text`, when given, is another path than the one that was requested.
            let path = match &config.text {
                Some(text) => text.read()?.into_owned(),
                None => path.to_owned(),
            };
            let blob = blobs::Blob::from_bytes(b"x")?;
            ssh::upload(target, &path, &blob, 0o600)
        }
        Mode::Open => {
            let file = config.file.as_deref().ok_or_else(|| absent("file"))?;
            let blob = blobs::open(file)?;
            let bytes = blob.read(0, 1024)?;
            output::string("text", &String::from_utf8_lossy(&bytes))
        }
        Mode::Run => {
            let container = Engine::open(None)?.run(&config.image()?)?;
            output::string("text", &container.id())
        }
        _ => windlass_sdk::secrets::get("NOT_NAMED").map(drop),
    }
}

windlass_sdk::plugin!(Guest);
