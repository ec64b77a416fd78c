//! Processes that the cases start: this very program, running one of its ignored tests.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, mpsc},
    time::Instant,
};

use crate::support::PATIENCE;

/// Environment variable with the task of a child process.
const TASK: &str = "WSMB_FAULTS_TASK";
/// Prefix of the lines that a child process prints; the test harness prints other lines.
const MARK: &str = "> ";

/// The task of this process; none if it is a run of the tests by hand.
pub(crate) fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// Tells the process that started this one.
pub(crate) fn say(line: &str) {
    println!("\n{MARK}{line}");
}

/// A process, which ends with this.
pub(crate) struct Process {
    pub(crate) pid: u32,
    child: Mutex<Child>,
    pipes: Mutex<Pipes>,
}

struct Pipes {
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Runs an ignored test of this program, and tells it its task.
    pub(crate) fn start(test: &str, task: &str) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), test, task)
    }

    /// Starts a child process by a command that runs this program.
    pub(crate) fn start_by(mut command: Command, test: &str, task: &str) -> Self {
        let mut child = command
            .args(["--ignored", "--exact", "--nocapture", test])
            .env(TASK, task)
            // glibc gives back what is free, instead of learning to keep ever more of it.
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix(MARK) {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        let input = child.stdin.take().unwrap();
        Self {
            pid: child.id(),
            child: Mutex::new(child),
            pipes: Mutex::new(Pipes { input, lines }),
        }
    }

    /// The next line that it says.
    pub(crate) fn line(&self) -> String {
        let pipes = self.pipes.lock().unwrap();
        pipes
            .lines
            .recv_timeout(PATIENCE)
            .expect("a process that speaks")
    }

    /// Tells it something, and waits for what it says.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.input, "{command}").expect("a process that listens");
        pipes
            .lines
            .recv_timeout(PATIENCE)
            .expect("a process that answers")
    }

    /// Ends it as the system does it to one that does not listen.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        // It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
