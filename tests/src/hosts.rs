//! Several machines on this one, for fleets and for what happens between hosts.
//!
//! Each host is a set of namespaces (network, mounts, host name, process ids) with an
//! address on a bridge, a Docker engine and an sshd of its own: `/srv`, `/run` and
//! `/var/lib/docker` are the host's. It needs root, as CI has it.
//!
//! Names tell the owner: the bridge `wlK` of the subnet `10.77.K.0/24` carries the
//! owner's name as its alias, the hosts' network namespaces are `wlK-N`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::process::{self, Supervised};
use crate::registry::Registry;
use crate::relay::Relay;
use crate::scratch::{self, Scratch};
use crate::sshd::Sshd;
use crate::{docker, sweep};

/// Third octets of the subnets, one a [`Hosts`].
const SUBNETS: std::ops::RangeInclusive<u8> = 1..=250;
/// Last octet of the bridge's own address; hosts count from 1.
const GATEWAY: u8 = 254;
const READY: Duration = Duration::from_secs(60);

/// What a host's first process does: `$1` name, `$2` and `$3` directories that become
/// `/srv` and `/var/lib/docker`, `$4` a file that says that it is done.
const INIT: &str = r#"
set -e
hostname "$1"
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /srv /var/lib/docker
mount --bind "$2" /srv
mount --bind "$3" /var/lib/docker
: > "$4"
while :; do sleep 3600 & wait; done
"#;

/// A set of hosts. On drop their processes end, and the bridge and its rule go.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
    relays: Vec<Relay>,
    // Last: it is what the hosts hang on.
    bridge: Bridge,
}

impl Hosts {
    /// `count` hosts, each with a Docker engine; some six seconds for three.
    pub fn start(count: u8) -> Result<Self> {
        Self::start_with(count, true)
    }

    /// `count` hosts with sshd only, for fleets that one engine could not carry.
    pub fn without_engines(count: u8) -> Result<Self> {
        Self::start_with(count, false)
    }

    fn start_with(count: u8, engines: bool) -> Result<Self> {
        sweep::once();
        let bridge = Bridge::create()?;
        let starting: Vec<_> = (1..=count)
            .map(|number| {
                let subnet = bridge.subnet;
                thread::spawn(move || Host::start(subnet, number, engines))
            })
            .collect();
        // All are joined before the first error returns: none may outlive the bridge.
        let started: Vec<_> = starting
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(Error::Answer {
                        from: "a host's start".to_owned(),
                        problem: "it panicked".to_owned(),
                    })
                })
            })
            .collect();
        let hosts = started.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            hosts,
            relays: Vec::new(),
            bridge,
        })
    }

    /// The hosts, in the order of their addresses.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// One of them to change, counted from 0.
    ///
    /// # Panics
    ///
    /// When there are not so many.
    pub fn host_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }

    /// One of them, counted from 0.
    ///
    /// # Panics
    ///
    /// When there are not so many.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// This machine's address as the hosts see it.
    pub fn gateway(&self) -> IpAddr {
        self.bridge.address()
    }

    /// Lets the hosts reach a registry of this machine under its own address,
    /// `127.0.0.1:PORT`: a reference then means the same image everywhere, and
    /// loopback needs no TLS.
    pub fn reach(&mut self, registry: &Registry) -> Result<()> {
        let target: SocketAddr = registry.address().parse().map_err(|_| Error::Answer {
            from: "the registry".to_owned(),
            problem: format!("{} is no address", registry.address()),
        })?;
        let relay = Relay::between(SocketAddr::new(self.gateway(), target.port()), target)?;
        for host in &self.hosts {
            let (from, to) = (target.port().to_string(), relay.address().to_string());
            host.inside(["sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"])?;
            let rule = [
                "iptables",
                "-t",
                "nat",
                "-A",
                "OUTPUT",
                "-p",
                "tcp",
                "-d",
                "127.0.0.1",
            ];
            host.inside(
                rule.into_iter()
                    .chain(["--dport", &from, "-j", "DNAT", "--to", &to]),
            )?;
            let rule = [
                "iptables",
                "-t",
                "nat",
                "-A",
                "POSTROUTING",
                "-p",
                "tcp",
                "-d",
            ];
            let gateway = self.gateway().to_string();
            host.inside(
                rule.into_iter()
                    .chain([gateway.as_str(), "-j", "MASQUERADE"]),
            )?;
        }
        self.relays.push(relay);
        Ok(())
    }
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    /// Its SSH server, on port 22; log in as the user of the test.
    pub sshd: Sshd,
    engine: Option<Supervised>,
    name: String,
    address: Ipv4Addr,
    pid: u32,
    // Dropped last: with its first process the kernel ends all others.
    _init: Supervised,
    _network: Namespace,
    files: Scratch,
}

impl Host {
    fn start(subnet: u8, number: u8, engine: bool) -> Result<Self> {
        let files = Scratch::new()?;
        let name = format!("wl{subnet}-{number}");
        let address = Ipv4Addr::new(10, 77, subnet, number);
        let network = Namespace::create(subnet, number, address)?;
        let (srv, data) = (files.dir("srv")?, files.dir("docker")?);
        let done = files.join("ready");
        let init = Supervised::start(
            Path::new("nsenter"),
            [format!("--net=/run/netns/{name}")]
                .into_iter()
                .chain(UNSHARE.map(str::to_owned))
                .chain(["/bin/sh", "-c", INIT, "init", &name].map(str::to_owned))
                .chain([&srv, &data, &done].map(|path| path.display().to_string())),
            &files.join("init.log"),
            // Its first process takes no SIGTERM, as any container's.
            Duration::ZERO,
        )?;
        init.wait_until("a host's first process", READY, || done.exists())?;
        let pid = process::descendants(init.pid())
            .first()
            .copied()
            .ok_or(Error::NotReady {
                part: "a host's first process".to_owned(),
                waited: Duration::ZERO,
                log: init.log(),
            })?;
        let sshd = Sshd::builder()
            .env("DOCKER_HOST", "unix:///run/docker.sock")
            .listen(address.into(), Some(22))
            .within(enter(pid))
            .start()?;
        let engine = if engine {
            Some(start_engine(pid, &files)?)
        } else {
            None
        };
        Ok(Self {
            sshd,
            engine,
            name,
            address,
            pid,
            _init: init,
            _network: network,
            files,
        })
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What is `/srv` there, seen from here.
    pub fn srv(&self) -> PathBuf {
        self.files.join("srv")
    }

    /// Runs a script on the host over SSH.
    pub fn exec(&self, script: &str) -> Result<Output> {
        self.sshd.exec(script)
    }

    /// Runs a command on the host without SSH, as its root, and gives its stdout.
    pub fn inside<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut nsenter = Command::new("nsenter");
        process::capture(nsenter.args(&enter(self.pid)[1..]).args(command))
    }

    /// Drops all that arrives from the bridge: connection attempts hang, as with a
    /// host that is switched off behind a router.
    pub fn blackhole(&self) -> Result<()> {
        self.inside(["iptables", "-I", "INPUT", "-i", "eth0", "-j", "DROP"])
            .map(drop)
    }

    /// Ends [`Host::blackhole`].
    pub fn restore(&self) -> Result<()> {
        self.inside(["iptables", "-D", "INPUT", "-i", "eth0", "-j", "DROP"])
            .map(drop)
    }

    /// Puts an empty file system of this size (`"2m"`) on `/srv`: the full disk.
    pub fn small_disk(&self, size: &str) -> Result<()> {
        let size = format!("size={size}");
        self.inside(["mount", "-t", "tmpfs", "-o", &size, "tmpfs", "/srv"])
            .map(drop)
    }

    /// Where its engine's socket is seen from here.
    pub fn docker_host(&self) -> String {
        format!("unix:///proc/{}/root/run/docker.sock", self.pid)
    }

    /// Ends the Docker engine, and nothing else, with this signal: `"KILL"` is its
    /// crash, `"TERM"` what a restart or an upgrade of its package sends.
    pub fn end_engine(&mut self, signal: &str) -> Result<()> {
        let Some(engine) = &self.engine else {
            return Ok(());
        };
        // What was started is `nsenter`, which ends with the engine, its child.
        let engines: Vec<u32> = process::descendants(engine.pid())
            .into_iter()
            .filter(|pid| process::name(*pid).as_deref() == Some("dockerd"))
            .collect();
        process::signal(signal, &engines);
        let deadline = Instant::now() + READY;
        while engine.is_running() {
            if Instant::now() > deadline {
                return Err(Error::NotReady {
                    part: format!("the end of {}'s Docker engine", self.name),
                    waited: READY,
                    log: engine.log(),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.engine = None;
        Ok(())
    }

    /// Starts the Docker engine again, on what the former one left.
    pub fn start_engine(&mut self) -> Result<()> {
        self.engine = Some(start_engine(self.pid, &self.files)?);
        Ok(())
    }

    /// The engine's log, none when the host has no engine.
    pub fn engine_log(&self) -> String {
        self.engine
            .as_ref()
            .map(Supervised::log)
            .unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // From the inside outwards, so that each process has a parent that reaps it.
        process::signal("KILL", &[self.pid]);
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.engine.as_ref().is_some_and(Supervised::is_running) && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process namespace of its own makes an end certain: with its first process the
/// kernel kills all others, also when the owner was killed.
const UNSHARE: [&str; 8] = [
    "unshare",
    "--mount",
    "--uts",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
    "--propagation=private",
];

/// The command that runs another one on the host with this first process.
fn enter(pid: u32) -> Vec<String> {
    let mut words = vec!["nsenter".to_owned(), "--target".to_owned(), pid.to_string()];
    words.extend(["--mount", "--uts", "--net", "--pid", "--"].map(str::to_owned));
    words
}

fn start_engine(pid: u32, files: &Scratch) -> Result<Supervised> {
    // The driver that works for this machine's engine works for the host's.
    let driver = docker::run(["info", "--format", "{{.Driver}}"])?;
    // A file of its own: flags that repeat keys of the system's file are refused.
    let config = files.write(
        "daemon.json",
        serde_json::json!({ "storage-driver": driver, "hosts": ["unix:///run/docker.sock"] })
            .to_string(),
    )?;
    let mut words = enter(pid);
    words.push("dockerd".to_owned());
    words.push("--config-file".to_owned());
    words.push(config.display().to_string());
    let program = PathBuf::from(words.remove(0));
    let log = files.join("dockerd.log");
    let engine = Supervised::start(&program, words, &log, Duration::ZERO)?;
    engine.wait_until("a host's Docker engine", READY, || {
        let mut probe = Command::new("nsenter");
        probe.args(&enter(pid)[1..]).args([
            "docker",
            "--host",
            "unix:///run/docker.sock",
            "version",
        ]);
        process::capture(&mut probe).is_ok()
    })?;
    Ok(engine)
}

/// The bridge that the hosts are on.
#[derive(Debug)]
struct Bridge {
    subnet: u8,
}

impl Bridge {
    /// Takes the first subnet that nobody has: making the bridge is the lock.
    fn create() -> Result<Self> {
        let mut problem = None;
        for subnet in SUBNETS {
            let name = format!("wl{subnet}");
            match ip(&["link", "add", &name, "type", "bridge"]) {
                Ok(_) => {
                    let bridge = Self { subnet };
                    ip(&["link", "set", &name, "alias", &scratch::unique_name()])?;
                    ip(&[
                        "address",
                        "add",
                        &format!("{}/24", bridge.address()),
                        "dev",
                        &name,
                    ])?;
                    ip(&["link", "set", &name, "up"])?;
                    bridge.rule("-I")?;
                    return Ok(bridge);
                }
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or(Error::Missing {
            program: "a free subnet in 10.77.0.0/16".to_owned(),
            hint: "remove bridges named wl1 to wl250",
        }))
    }

    fn address(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, self.subnet, GATEWAY).into()
    }

    /// Docker sets FORWARD to DROP, and bridged frames go through it.
    fn rule(&self, verb: &str) -> Result<()> {
        let bridge = format!("wl{}", self.subnet);
        let apply = |chain: &str| {
            process::capture(Command::new("iptables").args([
                "--wait", verb, chain, "-i", &bridge, "-o", &bridge, "-j", "ACCEPT",
            ]))
        };
        apply("DOCKER-USER").or_else(|_| apply("FORWARD")).map(drop)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.rule("-D");
        let _ = ip(&["link", "delete", &format!("wl{}", self.subnet)]);
    }
}

/// A host's network namespace, with its end of the cable.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn create(subnet: u8, number: u8, address: Ipv4Addr) -> Result<Self> {
        let name = format!("wl{subnet}-{number}");
        ip(&["netns", "add", &name])?;
        let namespace = Self { name: name.clone() };
        let (near, bridge) = (namespace.cable(), format!("wl{subnet}"));
        let cable = [
            "link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ];
        ip(&cable)?;
        ip(&["link", "set", &near, "master", &bridge, "up"])?;
        let gateway = Ipv4Addr::new(10, 77, subnet, GATEWAY).to_string();
        for words in [
            &["address", "add", &format!("{address}/24"), "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
            &["link", "set", "lo", "up"],
            &["route", "add", "default", "via", &gateway],
        ] {
            ip(&[&["-n", &name][..], words].concat())?;
        }
        Ok(namespace)
    }

    /// The name of the cable's end here.
    fn cable(&self) -> String {
        self.name.replacen("wl", "v", 1)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Connections whose end nobody acknowledged keep a namespace for minutes, and
        // the cable with it.
        let _ = ip(&["link", "delete", &self.cable()]);
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Removes what killed runs left. Their processes have ended with them.
pub(crate) fn sweep() {
    for subnet in SUBNETS {
        let alias = fs::read_to_string(format!("/sys/class/net/wl{subnet}/ifalias"));
        if alias.is_ok_and(|alias| scratch::is_leftover(&alias)) {
            eprintln!("rig: removing the hosts that a killed run left on wl{subnet}");
            let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(&format!("wl{subnet}-")) {
                    drop(Namespace { name });
                }
            }
            drop(Bridge { subnet });
        }
    }
}

fn ip(words: &[&str]) -> Result<String> {
    process::capture(Command::new("ip").args(words))
}
