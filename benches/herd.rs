//! A herd of cold clients on one layer: it is fetched once, it takes hardly longer than the line, and everybody has
//! the first byte when the server has it. On a line of the fetch's own, and on one that all connections share.

mod support;

use std::process::ExitCode;

use serde_json::Value;
use support::figures::{Bound, Figure, ROUNDS, Verdicts};
use support::scripted::server::Server;
use support::scripted::upstream::{Options, Registry};

/// So many processes, and so many clients in each.
struct Herd {
    processes: usize,
    clients: usize,
    size: usize,
    /// Bytes a second that the upstream's line carries.
    line: u64,
}

/// All processes together.
struct Taken {
    right: u64,
    seconds: f64,
    median_first_byte_ms: f64,
}

#[derive(Default)]
struct Figures {
    gets: Figure,
    /// Of the ideal.
    cold: Figure,
    warm: Figure,
    /// Beyond the upstream's own.
    first_byte_ms: Figure,
    /// Rounds in which the clients themselves were too slow to show anything.
    invalid: usize,
}

/// A round counts if the same clients take the warm layer in less of the ideal than this.
const WARM: f64 = 0.5;

fn main() -> ExitCode {
    let mut verdicts = Verdicts::default();
    let fleet = Herd { processes: 4, clients: 25, size: 64 << 20, line: 10 << 20 };
    println!("\n100 cold clients in four processes, 64 MiB at 10 MiB/s");
    let figures = fleet.measure(&mut verdicts);
    verdicts.judge("upstream GETs", &figures.gets, Bound::AtMost(1.0));
    verdicts.judge("wall time of the ideal", &figures.cold, Bound::AtMost(1.1));
    let first_byte = &figures.first_byte_ms;
    verdicts.judge("median first byte behind the upstream's, ms", first_byte, Bound::AtMost(50.0));
    let shared = Herd { processes: 1, clients: 20, size: 16 << 20, line: 16 << 20 };
    println!("\n20 cold clients, 16 MiB at 16 MiB/s, one line for all connections");
    let figures = shared.measure(&mut verdicts);
    verdicts.judge("upstream GETs", &figures.gets, Bound::AtMost(1.0));
    verdicts.judge("wall time of the ideal", &figures.cold, Bound::AtMost(1.1));
    verdicts.end()
}

impl Herd {
    /// Of as many valid rounds as were wanted, or the verdicts hear of it.
    fn measure(&self, verdicts: &mut Verdicts) -> Figures {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let options = Options { line_rate: Some(self.line), ..Options::default() };
        let registry = runtime.block_on(Registry::start(options));
        let server = Server::with_remote(&registry.url(), |_| {});
        let mut figures = Figures::default();
        for round in 1..=2 * ROUNDS as u64 {
            self.round(round, &registry, &server, &mut figures);
            if figures.warm.rounds() == ROUNDS {
                break;
            }
        }
        if figures.invalid > 0 {
            println!("  {} rounds do not count: the clients themselves were too slow", figures.invalid);
        }
        verdicts.judge_rounds(figures.warm.rounds());
        if figures.warm.rounds() > 0 {
            println!("  the same clients take the warm layer in {:.2} of the ideal", figures.warm);
        }
        figures
    }

    fn round(&self, round: u64, registry: &Registry, server: &Server, figures: &mut Figures) {
        let layer = registry.add_blob("library/layer", round, self.size);
        let small = registry.add_blob("library/layer", 1000 + round, 1 << 20);
        let path = |digest| format!("/v2/library/layer/blobs/{digest}");
        let direct = format!("{}{}", registry.url().as_str().trim_end_matches('/'), path(small.digest));
        let upstream = Taken::of(&[Server::herd(&["--clients", "1", &direct])]);
        let url = server.url(&format!("/v2/hub/library/layer/blobs/{}", layer.digest));
        let cold = self.run(&url);
        let warm = self.run(&url);
        assert_eq!((cold.right, warm.right), (self.all(), self.all()), "bytes are wrong");
        let ideal = self.size as f64 / self.line as f64;
        if warm.seconds / ideal >= WARM {
            figures.invalid += 1;
            return;
        }
        figures.gets.push(registry.asked(&path(layer.digest)).len() as f64);
        figures.cold.push(cold.seconds / ideal);
        figures.warm.push(warm.seconds / ideal);
        figures.first_byte_ms.push(cold.median_first_byte_ms - upstream.median_first_byte_ms);
    }

    fn all(&self) -> u64 {
        (self.processes * self.clients) as u64
    }

    fn run(&self, url: &str) -> Taken {
        let clients = self.clients.to_string();
        let started: Vec<_> = (0..self.processes)
            .map(|_| Server::herd_command(&["--clients", &clients, url]).spawn().unwrap())
            .collect();
        let ended = started.into_iter().map(|child| child.wait_with_output().unwrap());
        let reports: Vec<Value> =
            ended.map(|output| serde_json::from_slice(&output.stdout).unwrap()).collect();
        Taken::of(&reports)
    }
}

impl Taken {
    fn of(reports: &[Value]) -> Self {
        let number = |report: &Value, name: &str| report[name].as_u64().unwrap();
        let began = reports.iter().map(|report| number(report, "began_unix_ms")).min().unwrap();
        let ended = reports.iter().map(|report| number(report, "began_unix_ms") + number(report, "took_ms"));
        let first_bytes = reports.iter().flat_map(|report| report["first_byte_ms"].as_array().unwrap());
        let mut first_bytes: Vec<f64> = first_bytes.map(|millis| millis.as_f64().unwrap()).collect();
        first_bytes.sort_by(f64::total_cmp);
        Self {
            right: reports.iter().map(|report| number(report, "right")).sum(),
            seconds: (ended.max().unwrap() - began) as f64 / 1000.0,
            median_first_byte_ms: first_bytes[first_bytes.len() / 2],
        }
    }
}
