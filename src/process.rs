//! Children that die with us.
//!
//! A server killed with SIGKILL cannot clean up, so the kernel has to: every child asks for a
//! SIGKILL of its own when its parent dies (`PR_SET_PDEATHSIG`). Two traps shape this module. The
//! signal is sent when the *thread* that spawned the child ends, and the threads of an async
//! runtime come and go: so one thread, which lives as long as the process, spawns all children.
//! And the parent may be gone before the child has asked: so the child checks afterwards.

use std::io;
use std::sync::{LazyLock, mpsc};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The environment variable by which a child learns who its parent is; see [`die_with_parent`].
pub const PARENT_VARIABLE: &str = "IMG2TEXT_PARENT_PID";

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    std::thread::Builder::new()
        .name("spawner".into())
        .spawn(move || {
            for mut order in inbox {
                let _runtime = order.runtime.enter();
                // A caller who went away drops the child, and `kill_on_drop` ends it.
                let _ = order.reply.send(order.command.spawn());
            }
        })
        .expect("a thread can be started");
    orders
});

/// Spawns a child of this very program that will not outlive it, if the first thing that it does
/// is to call [`die_with_parent`].
///
/// The child is in a process group of its own, so that a Ctrl-C in the terminal reaches it only
/// through us, and it is killed when the returned handle is dropped.
pub async fn spawn(mut command: Command) -> io::Result<Child> {
    let pid = getpid().as_raw_nonzero().to_string();
    command.env(PARENT_VARIABLE, pid).process_group(0).kill_on_drop(true);
    let (reply, answer) = oneshot::channel();
    let order = Order { command, runtime: Handle::current(), reply };
    SPAWNER.send(order).map_err(|_| io::Error::other("the spawning thread has ended"))?;
    answer.await.map_err(|_| io::Error::other("the spawning thread has ended"))?
}

/// In a child: die when the parent does, and right now if it already has. The request survives an
/// `exec`, so it also serves children that turn into another program.
pub fn die_with_parent() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok());
    let parent = parent.and_then(Pid::from_raw).ok_or_else(|| {
        io::Error::other("this is a part of the server, which starts it by itself")
    })?;
    if getppid() != Some(parent) {
        return Err(io::Error::other("the parent process is gone"));
    }
    Ok(())
}
