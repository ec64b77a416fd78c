//! Metrics of the process, with the names that Prometheus gives them. Linux only.

use std::fmt::Write as _;

use super::exposition::Format;

/// The metrics of this process as text; empty on other systems.
pub(crate) fn exposition(format: Format) -> String {
    let mut text = String::new();
    let mut write = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        let Some(value) = value else { return };
        let (suffix, described) = match (kind, format) {
            ("counter", Format::Prometheus) => ("_total", "_total"),
            ("counter", Format::OpenMetrics) => ("_total", ""),
            _ => ("", ""),
        };
        let _ = write!(
            text,
            "# HELP process_{name}{described} {help}.\n\
             # TYPE process_{name}{described} {kind}\n\
             process_{name}{suffix} {value}\n"
        );
    };
    let process = read();
    let [cpu, start, resident, open, max] = process;
    write(
        "cpu_seconds",
        "counter",
        "User and system time of the processor",
        cpu,
    );
    write(
        "start_time_seconds",
        "gauge",
        "Start of the process, as a Unix time",
        start,
    );
    write(
        "resident_memory_bytes",
        "gauge",
        "Resident memory",
        resident,
    );
    write("open_fds", "gauge", "Open file descriptors", open);
    write(
        "max_fds",
        "gauge",
        "Maximum number of open file descriptors",
        max,
    );
    text
}

/// Processor time in seconds, start as a Unix time, resident memory in bytes, open descriptors and their limit.
#[cfg(target_os = "linux")]
fn read() -> [Option<f64>; 5] {
    use std::fs;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may contain anything: fields are counted from behind it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    // Field 3 of proc(5) is the first here.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| {
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse::<f64>().ok()
    });
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    [
        field(14)
            .zip(field(15))
            .map(|(user, system)| (user + system) / ticks),
        boot.zip(field(22))
            .map(|(boot, start)| boot + start / ticks),
        field(24).map(|pages| pages * page),
        // One of them reads the folder.
        fs::read_dir("/proc/self/fd")
            .ok()
            .map(|files| files.count() as f64 - 1.0),
        limit.map(|limit| limit as f64),
    ]
}

#[cfg(not(target_os = "linux"))]
fn read() -> [Option<f64>; 5] {
    [None; 5]
}
