//! CPU and memory use of processes, and their CPU affinity.

use std::{
    fs,
    process::{Child, Command},
};

use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

/// The core of whatever is measured.
pub const MEASURED: usize = 0;
/// The core of everything around it: load, upstream, Salesforce.
pub const AROUND: usize = 1;

/// Keeps this process, and what it starts from now on, on one core.
pub fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("at least two cores");
}

/// A command that stays on one core.
pub fn on_core(core: usize, program: &str) -> Command {
    on_cores(&core.to_string(), program)
}

/// A command that may use both cores.
pub fn on_both_cores(program: &str) -> Command {
    on_cores(&format!("{MEASURED},{AROUND}"), program)
}

fn on_cores(cores: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores, program]);
    command
}

/// A process, which ends with its owner.
pub struct Process(pub Child);

impl Process {
    /// Seconds of CPU that it and its children have used since they began.
    pub fn cpu(&self) -> f64 {
        let ticks = clock_ticks_per_second() as f64;
        self.family().iter().filter_map(|process| cpu_ticks(*process)).sum::<u64>() as f64 / ticks
    }

    /// Bytes of memory that it and its children have for themselves alone.
    pub fn memory(&self) -> u64 {
        let private = |process: &u32| {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
            let of = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
            rollup.lines().filter(|line| line.starts_with("Private_")).filter_map(of).sum::<u64>() * 1024
        };
        self.family().iter().map(private).sum()
    }

    fn family(&self) -> Vec<u32> {
        let own = self.0.id();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        all.filter(|process| *process == own || parent(*process) == Some(own)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for process in self.family().into_iter().rev() {
            // A process that has ended already has no id.
            let _ = Pid::from_raw(process as i32).map(|process| kill_process(process, Signal::KILL));
        }
        let _ = self.0.wait();
    }
}

/// proc_pid_stat(5), from the third field on: the second is a name that may have blanks.
fn stat(process: u32) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(line.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(process: u32) -> Option<u32> {
    stat(process)?.get(1)?.parse().ok()
}

fn cpu_ticks(process: u32) -> Option<u64> {
    let fields = stat(process)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// In words: cores, processor, kernel.
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_matches([':', '\t', ' ']);
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}
