//! What a process costs: processor time and memory, its children's with it.

use std::fs;

/// Processor seconds that a process and its living children have used since they began.
pub fn cpu_seconds(pid: u32) -> f64 {
    // Fields 14 and 15 of proc(5), counted behind the name, which may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let own = ticks as f64 / ticks_per_second();
    own + children(pid).into_iter().map(cpu_seconds).sum::<f64>()
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// In bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident: u64,
    /// Without files that are mapped: what nobody else pays for.
    pub anonymous: u64,
}

pub fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    Memory { resident: field("VmRSS:"), anonymous: field("RssAnon:") }
}
