//! As little of the system as a worker needs: memory, its pipes, and the language data to read.
//!
//! A decoder or an engine that somebody's file takes over finds no network, no other process, no
//! file but the language data, and nothing to write to. Entered after the first engine is loaded
//! and before the first file is read. A kernel that lacks a part is told of, and the rest holds.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, getpid, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Enters the sandbox for good. Gives what this kernel could not do.
pub fn enter(language_data: &Path) -> Vec<String> {
    let parts = [
        ("no file can be written", no_writing()),
        ("files (Landlock)", no_files_but(language_data)),
        ("system calls (seccomp)", few_system_calls()),
    ];
    let missing = parts.into_iter().filter_map(|(part, done)| {
        let error = done.err()?;
        Some(format!("{part}: {error}"))
    });
    missing.collect()
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn no_writing() -> Done {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Ok(setrlimit(Resource::Fsize, none)?)
}

fn no_files_but(language_data: &Path) -> Done {
    let newest = ABI::V5;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .create()?
        .add_rules(path_beneath_rules([language_data], AccessFs::from_read(newest)))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has none".into()),
        _ => Ok(()),
    }
}

fn few_system_calls() -> Done {
    let architecture = std::env::consts::ARCH.try_into()?;
    // Refused with an error and not with a signal: a library that asks in vain for what it can do
    // without goes on.
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(allowed()?, refused, SeccompAction::Allow, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}

/// The system calls that a worker makes, and what glibc and Rust make on their own to keep memory,
/// time and an orderly end. None of them reaches another process, the network, or a file to write.
fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    allowed.extend(ALLOWED_X86_64.iter().map(|number| (*number, Vec::new())));
    // Opening: only to read.
    let writing = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    let reads = SeccompCondition::new(
        2,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(writing),
        libc::O_RDONLY as u64,
    )?;
    allowed.insert(libc::SYS_openat, vec![SeccompRule::new(vec![reads])?]);
    // Signals: only to itself, as by `abort`.
    let own = getpid().as_raw_nonzero().get() as u64;
    let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
    allowed.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![to_itself])?]);
    Ok(allowed)
}

const ALLOWED: [i64; 44] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_ppoll,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older names of some of them.
#[cfg(target_arch = "x86_64")]
const ALLOWED_X86_64: [i64; 4] =
    [libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_poll];
