//! The second helper: PID 1 of the command's namespace. It covers, mounts, sheds its rights, starts the command, reaps
//! what the command leaves behind, and ends everything when the command or the host ends.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use rustix::thread::CapabilitySet;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::wire::{Event, Order, Step};
use super::{errno, mounts, network, readable, stage};
use crate::syscall;

/// Runs in the helper.
pub(super) fn main() -> io::Result<()> {
    let mut socket = stage::host()?;
    let (mut order, stdin) = Order::receive(&mut socket)?;
    let listener = match prepare(&mut order, &socket) {
        Ok(listener) => listener,
        Err((step, error)) => return Event::Failed(step, errno(&error)).send(&socket, None),
    };
    // One thread: a helper's memory and start-up time are the command's overhead.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        // Before the command starts, so that its end cannot be missed.
        let children = signal(SignalKind::child())?;
        let mut command = command(&mut order)?;
        let started = command.stdin(Stdio::from(stdin)).spawn();
        drop(command);
        let main = match started {
            Ok(main) => Pid::from_child(&main),
            Err(error) => return Event::NotStarted(errno(&error)).send(&socket, None),
        };
        // The host may have died since: from here on nothing returns past `end_all`.
        let told = Event::Started.send(&socket, listener.as_ref().map(TcpListener::as_fd));
        drop(listener);
        let end = match told {
            Ok(()) => watch(main, children, &socket).await,
            Err(error) => Err(error),
        };
        end_all();
        match end? {
            Some(end) => end.send(&socket, None),
            None => Ok(()),
        }
    })
}

/// Everything between arriving in the namespaces and starting the command.
fn prepare(
    order: &mut Order,
    socket: &UnixStream,
) -> Result<Option<TcpListener>, (Step, io::Error)> {
    let means = order.means;
    if means.mount {
        let masks = order.take_masks();
        let bare = mounts::prepare(&masks, means.pid)?;
        for index in bare {
            Event::Bare(index)
                .send(socket, None)
                .map_err(|error| (Step::Start, error))?;
        }
    }
    let listener = match order.isolate.filter(|_| means.net) {
        Some(port) => Some(network::open(port).map_err(|error| (Step::Network, error))?),
        None => None,
    };
    // Without a mask there is none to lift; root alone would have had something to shed.
    if let Err(error) = shed()
        && means.mount
    {
        return Err((Step::Capabilities, error));
    }
    settle(order).map_err(|error| (Step::Start, error))?;
    Ok(listener)
}

/// Makes this process the one that orphans come to, and one that the command can neither trace nor take descriptors
/// from.
fn settle(order: &Order) -> io::Result<()> {
    use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};
    if !getpid().is_init() {
        set_child_subreaper(Some(getpid()))?;
    }
    if order.nofile.is_some() {
        syscall::set_nofile(order.nofile)?;
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The rights that would lift a mask or open this process, taken from the command for good. Any other user than root
/// loses all at `exec` anyway. Within a further user namespace the command may mount, but what is mounted already
/// comes locked together from here (mount_namespaces(7)).
fn shed() -> io::Result<()> {
    use rustix::thread::{
        capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities,
    };
    if !capabilities(None)?
        .effective
        .contains(CapabilitySet::SETPCAP)
    {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    for capability in SHED.iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel older than the capability has none to remove.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    let mut sets = capabilities(None)?;
    sets.effective &= !SHED;
    sets.permitted &= !SHED;
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}

const SHED: CapabilitySet = CapabilitySet::SYS_ADMIN // umount
    .union(CapabilitySet::SYS_PTRACE) // this process's memory
    .union(CapabilitySet::DAC_READ_SEARCH) // open_by_handle_at, which looks under a mount
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::MKNOD) // the disk itself
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::CHECKPOINT_RESTORE);

fn command(order: &mut Order) -> io::Result<Command> {
    let mut argv = order.take_argv().into_iter();
    let program = argv.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(argv).env_clear().envs(order.take_env());
    Ok(command)
}

/// Reaps and forwards until the command ends (its end) or the host is gone (`None`).
async fn watch(
    main: Pid,
    mut children: tokio::signal::unix::Signal,
    socket: &UnixStream,
) -> io::Result<Option<Event>> {
    // What the terminal or a `kill` of the group sends reaches the command itself. These are caught, after the command
    // was started with the dispositions of the caller, so that it is not this process that ends.
    let _caught = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ]
    .map(signal);
    let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let host = socket.try_clone()?;
    host.set_nonblocking(true)?;
    let mut host = tokio::net::UnixStream::from_std(host)?;
    loop {
        // The command may have ended before this process came to listen: look first.
        for status in reap(main) {
            if status.stopped() {
                Event::Stopped.send(socket, None)?;
            } else if status.continued() {
                Event::Continued.send(socket, None)?;
            } else {
                return Ok(Some(ending(status)));
            }
        }
        let mut number = [0];
        tokio::select! {
            _ = children.recv() => {}
            // A shell that put itself in a group of its own is not continued with ours.
            _ = continued.recv() => pass_on(main, Signal::CONT),
            read = host.read(&mut number) => match read {
                Ok(1) => {
                    let [number] = number;
                    if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                        pass_on(main, signal);
                    }
                }
                Ok(_) | Err(_) => return Ok(None),
            },
        }
    }
}

/// Everything that the kernel has to say of children now; what is not of the command is reaped and forgotten.
fn reap(main: Pid) -> Vec<WaitStatus> {
    let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
    let mut statuses = Vec::new();
    while let Ok(Some((pid, status))) = waitpid(None, options) {
        if pid == main {
            statuses.push(status);
        }
    }
    statuses
}

fn ending(status: WaitStatus) -> Event {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Event::Exited(byte(code)),
        (None, signal) => Event::Killed(byte(signal.unwrap_or_default())),
    }
}

/// A command that is gone by now needs no signal: its end is on its way.
fn pass_on(main: Pid, signal: Signal) {
    rustix::process::kill_process(main, signal).ok();
}

/// Ends what the command left behind. Orphans come to this process, so that whoever has no living parent is a child
/// here; the kernel itself ends the rest of a PID namespace with its PID 1.
fn end_all() {
    for _ in 0..ROUNDS {
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        for child in readable::children_of(rustix::process::getpid()) {
            rustix::process::kill_process(child, Signal::KILL).ok();
        }
        std::thread::sleep(PAUSE);
    }
}

/// A second in all: a process that outlives `SIGKILL` so long waits for a device.
const ROUNDS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);
