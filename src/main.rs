//! Owns the entry point. Must not know: anything but the command line.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
