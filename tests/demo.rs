//! `make demo`: 100 clients pull a layer of 16 MiB that nobody has yet, through a line of 16 MiB/s. Prints who
//! fetched what, and exits 1 unless there was one GET and every client got every byte right.

mod support;

use std::process::ExitCode;

use support::demonstration::{Scene, play};

#[tokio::main]
async fn main() -> ExitCode {
    println!("100 clients, a layer of 16 MiB that is not cached, an upstream whose line carries 16 MiB/s\n");
    let outcome = play(Scene { clients: 100, layer: 16 << 20, line: 16 << 20, bug: None }).await;
    print!("{}", outcome.story());
    if outcome.is_as_promised() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
