//! C1 to C20: the upstream goes wrong.

use std::time::Duration;

use super::cells::{Cell, Phase, Plan, Row, run};
use super::client::{Ask, Got};
use super::flows::{Clients, Expect, Kept, all, broken, end, refused, upstream, whole};
use super::signs::Sign::{Counted, Failed, Logged};
use super::signs::told;
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::upstream::{Access, Options, Registry};
use super::world::{HASTY, SIZE, Setup, World};

pub const ROWS: [Row; 20] = [
    Row {
        id: "C1",
        fault: "a body of the right length with wrong bytes",
        told: &[told(Phase::BODY, &[Counted("digest_mismatches"), Logged("digest_mismatch: ")])],
        plan: c1,
    },
    Row {
        id: "C2",
        fault: "a body longer than it should be",
        told: &[
            told(&[Phase::Head], &[Failed("bad_response")]),
            told(&[Phase::Last], &[Counted("digest_mismatches"), Logged("digest_mismatch: ")]),
        ],
        plan: c2,
    },
    Row {
        id: "C3",
        fault: "an early end, framed as if it were one",
        told: &[
            told(Phase::BODY, &[Failed("broken"), Logged("a fill was interrupted")]),
            told(Phase::PART, &[Counted("upstream_resumed")]),
        ],
        plan: c3,
    },
    Row {
        id: "C4",
        fault: "a reset",
        told: &[
            told(Phase::BODY, &[Failed("broken"), Logged("a fill was interrupted")]),
            told(Phase::PART, &[Counted("upstream_resumed")]),
        ],
        plan: c4,
    },
    Row {
        id: "C5",
        fault: "a resume answered with the whole",
        told: &[told(Phase::BODY, &[Counted("upstream_resumed"), Logged("a fill was interrupted")])],
        plan: c5,
    },
    Row {
        id: "C6",
        fault: "a resume answered with another part, or refused",
        told: &[told(Phase::BODY, &[Failed("bad_resume"), Counted("upstream_resumed")])],
        plan: c6,
    },
    Row {
        id: "C7",
        fault: "nobody listens there any more",
        told: &[told(Phase::BEFORE, &[Failed("connect")])],
        plan: c7,
    },
    Row {
        id: "C8",
        fault: "TLS that cannot be trusted",
        told: &[told(&[Phase::Head], &[Failed("tls")])],
        plan: c8,
    },
    Row {
        id: "C9",
        fault: "a length that is missing, wrong or said twice",
        told: &[told(&[Phase::Head], &[Failed("bad_response")])],
        plan: c9,
    },
    Row {
        id: "C10",
        fault: "a drip of less than 10 KiB a second",
        told: &[told(&[Phase::First, Phase::Middle], &[Failed("slow")])],
        plan: c10,
    },
    Row {
        id: "C11",
        fault: "silence",
        told: &[told(Phase::BEFORE, &[Failed("timeout"), Logged("a fill was interrupted")])],
        plan: c11,
    },
    Row {
        id: "C12",
        fault: "a token that has expired",
        told: &[told(Phase::BEFORE, &[Logged("token_refresh: ")])],
        plan: c12,
    },
    Row {
        id: "C13",
        fault: "401 again and again, and a token server that fails",
        told: &[told(
            Phase::BEFORE,
            &[Failed("denied"), Failed("bad_response"), Failed("status_5xx"), Logged("token_refresh: ")],
        )],
        plan: c13,
    },
    Row {
        id: "C14",
        fault: "403, 404",
        told: &[told(Phase::BEFORE, &[Failed("not_found"), Failed("forbidden")])],
        plan: c14,
    },
    Row {
        id: "C15",
        fault: "429 with every kind of Retry-After",
        told: &[told(Phase::BEFORE, &[Failed("rate_limited")])],
        plan: c15,
    },
    Row {
        id: "C16",
        fault: "500, 502, 503, 504",
        told: &[told(Phase::BEFORE, &[Failed("status_5xx")])],
        plan: c16,
    },
    Row {
        id: "C17",
        fault: "redirects in a circle, or to where they must not lead",
        told: &[told(Phase::BEFORE, &[Failed("redirect")])],
        plan: c17,
    },
    Row {
        id: "C18",
        fault: "a signed address that has expired",
        told: &[told(Phase::BEFORE, &[Failed("broken")])],
        plan: c18,
    },
    Row {
        id: "C19",
        fault: "an answer that no registry gives",
        told: &[told(Phase::BEFORE, &[Failed("bad_response")])],
        plan: c19,
    },
    Row {
        id: "C20",
        fault: "an upstream that vanishes without a word",
        told: &[told(Phase::BEFORE, &[Failed("timeout"), Logged("a fill was interrupted")])],
        plan: c20,
    },
];

const BEFORE_ANY: &str = "there is no byte yet that could be wrong";
const NOTHING_TO_RESUME: &str = "a resume needs a byte to go on from";
const IN_THE_HEAD: &str = "it is in the head, or it is not there at all";

/// Where the body stops. With nothing at all there would be nothing to resume, so the first byte came.
fn stop_at(phase: Phase) -> u64 {
    phase.at(SIZE as u64).max(1)
}

fn hasty() -> Setup {
    Setup { timeouts: HASTY, ..Setup::default() }
}

/// Several things that can go wrong in the same way, one after the other.
fn each(cell: Cell, cases: Vec<(Setup, Vec<Fault>, Expect)>) -> Plan {
    run(async move {
        let mut seen = Vec::new();
        for (setup, faults, expect) in cases {
            let what = upstream(cell, setup, faults.clone(), expect).await;
            let what = what.map_err(|why| format!("{faults:?}: {why}"))?;
            if !seen.contains(&what) {
                seen.push(what);
            }
        }
        Ok(seen.join(" / "))
    })
}

fn one(cell: Cell, faults: Vec<Fault>, expect: Expect) -> Plan {
    each(cell, vec![(Setup::default(), faults, expect)])
}

fn c1(cell: Cell) -> Plan {
    let wrong = |at| Fault::WrongByteAt(at);
    match cell.phase {
        Phase::Head => Plan::Impossible(BEFORE_ANY),
        Phase::After => one(cell, vec![wrong(0)], whole(0)),
        phase => {
            let at = phase.at(SIZE as u64);
            let mirrored = Setup { mirror: true, ..Setup::default() };
            each(
                cell,
                vec![
                    (Setup::default(), vec![wrong(at), wrong(at)], broken(2..=2)),
                    // The clean retry helps who comes next, and who was sent nothing.
                    (Setup::default(), vec![wrong(at)], either(2)),
                    (mirrored, vec![wrong(at), wrong(at)], either(2)),
                    (small(), vec![wrong(at % 3_000)], whole(2)),
                ],
            )
        }
    }
}

fn either(gets: usize) -> Expect {
    Expect { clients: Clients::WholeOrBroken, kept: Kept::Blob, gets: gets..=gets }
}

/// So small that nothing is sent before the proof.
fn small() -> Setup {
    Setup { size: 3_000, ..Setup::default() }
}

fn c2(cell: Cell) -> Plan {
    let unframed = || Fault::All(vec![Fault::Longer(10), Fault::NoLength]);
    match cell.phase {
        Phase::Head => one(cell, vec![Fault::Longer(10)], refused(&[502], 1..=1)),
        Phase::First | Phase::Middle => Plan::Impossible("that it is too long shows only at its end"),
        Phase::Last => {
            let twice = vec![unframed(), unframed()];
            each(
                cell,
                vec![
                    (Setup::default(), twice.clone(), broken(2..=2)),
                    (small(), twice, refused(&[502], 2..=2)),
                    (small(), vec![unframed()], whole(2)),
                ],
            )
        }
        Phase::After => one(cell, vec![Fault::Longer(10)], whole(0)),
    }
}

fn c3(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head => one(cell, vec![Fault::CloseBeforeHead], whole(2)),
        phase => {
            let at = phase.at(SIZE as u64);
            each(
                cell,
                vec![
                    (Setup::default(), vec![Fault::CloseAt(at)], whole(2)),
                    (Setup::default(), vec![Fault::EndAt(at)], whole(2)),
                ],
            )
        }
    }
}

fn c4(cell: Cell) -> Plan {
    let fault = match cell.phase {
        Phase::Head => Fault::ResetBeforeHead,
        phase => Fault::ResetAt(phase.at(SIZE as u64)),
    };
    one(cell, vec![fault], whole(2))
}

/// The body stops, and then the resume goes like this.
fn resumed(cell: Cell, answers: Vec<(Vec<Fault>, Expect)>) -> Plan {
    match cell.phase {
        Phase::Head => Plan::Impossible(NOTHING_TO_RESUME),
        phase => {
            let at = stop_at(phase);
            let cases = answers.into_iter().map(|(answers, expect)| {
                let faults = std::iter::once(Fault::CloseAt(at)).chain(answers).collect();
                (Setup::default(), faults, expect)
            });
            each(cell, cases.collect())
        }
    }
}

fn c5(cell: Cell) -> Plan {
    // What is dropped in front may even be wrong: these bytes are here already.
    let other_start = Fault::All(vec![Fault::IgnoreRange, Fault::WrongByteAt(0)]);
    resumed(cell, vec![(vec![Fault::IgnoreRange], whole(2)), (vec![other_start], whole(2))])
}

fn c6(cell: Cell) -> Plan {
    let range = |range: &str| Fault::headers(&[("content-range", range)]);
    let refusal = Fault::answer(416, &[("content-range", "bytes */7")], "");
    resumed(
        cell,
        vec![
            (vec![range("bytes 5-9/10")], whole(3)),
            (vec![range("nonsense")], whole(3)),
            (vec![refusal], whole(3)),
        ],
    )
}

fn c7(cell: Cell) -> Plan {
    run(async move {
        let world = World::new(Setup::default()).await;
        if cell.phase == Phase::After {
            world.cache_it().await?;
        }
        let at = cell.phase.at(SIZE as u64);
        let (held, waits) = match cell.phase {
            Phase::Head => (Fault::silence(), true),
            _ => (Fault::StallAt(at), false),
        };
        world.registry.script(&world.line(), [held]);
        let clients = world.pulls(cell.clients());
        if waits {
            world.until_waiting(cell.clients()).await?;
            world.until_asked().await?;
        } else {
            world.until_at(&clients, at).await?;
        }
        world.registry.stop().await;
        let got = all(clients).await;
        world.rest().await?;
        let expect = match cell.phase {
            Phase::Head => refused(&[502], 1..=1),
            Phase::After => whole(0),
            _ => broken(1..=1),
        };
        let seen = expect.check(&world, &got)?;
        world.registry.resume().await;
        end(world).await?;
        // With another origin nobody notices.
        let world = World::new(Setup { mirror: true, ..Setup::default() }).await;
        world.registry.stop().await;
        let got = all(world.pulls(cell.clients())).await;
        world.rest().await?;
        whole(0).check(&world, &got)?;
        world.finish().await?;
        Ok(seen)
    })
}

fn c8(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head | Phase::After => {}
        _ => return Plan::Impossible("a connection is trusted before the first head, or not at all"),
    }
    run(async move {
        let tls = Options { tls: true, host: "localhost", ..Options::default() };
        let registry = Registry::start(tls).await;
        let world = World::new(Setup { change: Box::new(|_| {}), ..Setup::default() }).await;
        registry.add_image("a/b", "latest", &world.image);
        if cell.phase == Phase::After {
            world.cache_it().await?;
        }
        // The repository stays, its upstream shows a certificate that nobody knows.
        let mut spec = binaryrepo::engine::RemoteSpec::new(registry.url());
        spec.tag_ttl = Duration::from_secs(3600);
        let spec = binaryrepo::engine::RepositorySpec::Remote(Box::new(spec));
        let name = "tls".parse().unwrap();
        world.engine.repositories().create(name, spec).await.map_err(|error| error.message)?;
        let target = match cell.phase {
            Phase::Head => format!("/v2/tls/a/b/blobs/{}", world.layer.digest),
            _ => world.target("a/b"),
        };
        let clients = (0..cell.clients()).map(|_| world.ask(Ask::get(target.clone()))).collect();
        let got = all(clients).await;
        world.rest().await?;
        let expect = if cell.phase == Phase::Head { refused(&[502], 0..=0) } else { whole(0) };
        let seen = expect.check_answers(&got, registry.log().len())?;
        // It is not a missing blob, and it says so; who comes after that is told that it failed a moment ago.
        let first = |one: &Got| one.header("x-cache") != Some("negative");
        let silent =
            |one: &&Got| first(one) && !one.text.contains("certificate") && !one.text.contains("TLS");
        if let Some(other) = got.iter().find(silent).filter(|_| cell.phase == Phase::Head) {
            return Err(format!("nothing is said of TLS: {other:?}"));
        }
        end(world).await?;
        Ok(seen)
    })
}

fn c9(cell: Cell) -> Plan {
    let length = |length: &str| Fault::headers(&[("content-length", length)]);
    let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello".to_vec();
    match cell.phase {
        Phase::Head => each(
            cell,
            vec![
                (Setup::default(), vec![Fault::NoLength], whole(1)),
                (Setup::default(), vec![length("7")], refused(&[502], 1..=1)),
                (
                    Setup::default(),
                    vec![Fault::Raw(twice.clone()), Fault::Raw(twice.clone()), Fault::Raw(twice)],
                    refused(&[502], 1..=3),
                ),
            ],
        ),
        Phase::After => one(cell, vec![Fault::NoLength], whole(0)),
        _ => Plan::Impossible(IN_THE_HEAD),
    }
}

fn c10(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head => Plan::Impossible("a head that drips is one that does not come in time: C11.head"),
        Phase::Last => Plan::Impossible("one byte is there or it is not: C11.last"),
        phase => {
            let drip = Fault::DripFrom(phase.at(SIZE as u64), 2_000);
            each(cell, vec![(hasty(), vec![drip], whole(2))])
        }
    }
}

fn c11(cell: Cell) -> Plan {
    match cell.phase {
        Phase::Head => {
            let silence = vec![Fault::silence(), Fault::silence(), Fault::silence()];
            each(
                cell,
                vec![(hasty(), vec![Fault::silence()], whole(2)), (hasty(), silence, refused(&[504], 3..=3))],
            )
        }
        phase => each(cell, vec![(hasty(), vec![Fault::StallAt(phase.at(SIZE as u64))], whole(2))]),
    }
}

fn c20(cell: Cell) -> Plan {
    // The connection says nothing more, and nor does the next one.
    let faults = match cell.phase {
        Phase::Head => vec![Fault::silence(), Fault::silence()],
        phase => vec![Fault::StallAt(phase.at(SIZE as u64)), Fault::silence()],
    };
    each(cell, vec![(hasty(), faults, whole(3))])
}

fn with_tokens() -> Setup {
    let upstream = Options { access: Access::anonymous_token(), ..Options::default() };
    Setup { upstream, ..Setup::default() }
}

/// Stops at the phase, and is asked again with a token that is no good any more.
async fn expire(cell: Cell, strike: impl FnOnce(&World), expect: Expect) -> Result<String, String> {
    let world = World::new(with_tokens()).await;
    // The first pull brings the token.
    if cell.phase == Phase::After {
        world.cache_it().await?;
    }
    let gate = Gate::closed();
    let mut clients = Vec::new();
    match cell.phase {
        Phase::Head | Phase::After => {
            strike(&world);
            clients.extend(world.pulls(cell.clients()));
        }
        phase => {
            let at = stop_at(phase);
            let stop = Fault::All(vec![Fault::HoldAt(at, gate.clone()), Fault::CloseAt(at)]);
            world.registry.script(&world.line(), [stop]);
            clients.extend(world.pulls(cell.clients()));
            world.until_at(&clients, at).await?;
            strike(&world);
            gate.open();
        }
    }
    let got = all(clients).await;
    world.rest().await?;
    let seen = expect.check(&world, &got)?;
    end(world).await?;
    Ok(seen)
}

fn c12(cell: Cell) -> Plan {
    let expect = match cell.phase {
        // 401, then with a new token.
        Phase::Head => whole(2),
        Phase::After => whole(0),
        // Once more before that.
        _ => whole(3),
    };
    run(expire(cell, |world| world.registry.revoke_tokens(), expect))
}

fn c13(cell: Cell) -> Plan {
    run(async move {
        let mut seen = Vec::new();
        let faults = [
            Fault::status(500),
            Fault::answer(200, &[("content-type", "application/json")], "no json"),
            Fault::answer(200, &[("content-type", "application/json")], vec![b' '; 100_000]),
            // A token, but none that is any good.
            Fault::answer(200, &[("content-type", "application/json")], r#"{"token":"junk"}"#),
        ];
        for fault in faults {
            let strike = move |world: &World| {
                world.registry.revoke_tokens();
                world.registry.always("GET /token", fault);
            };
            let expect = match cell.phase {
                Phase::Head => refused(&[502, 404], 1..=6),
                Phase::After => whole(0),
                _ => broken(2..=7),
            };
            let what = expire(cell, strike, expect).await?;
            if !seen.contains(&what) {
                seen.push(what);
            }
        }
        Ok(seen.join(" / "))
    })
}

/// A refusal of the upstream: told as it is before the head, a broken body after it.
fn refusal(
    cell: Cell,
    answer: Fault,
    statuses: &'static [u16],
    gets: RangeOf,
) -> (Setup, Vec<Fault>, Expect) {
    let (before, after) = gets;
    match cell.phase {
        Phase::Head => (Setup::default(), vec![answer; before], refused(statuses, before..=before)),
        phase => {
            let faults = std::iter::once(Fault::CloseAt(stop_at(phase))).chain(vec![answer; after]);
            (Setup::default(), faults.collect(), broken(after + 1..=after + 1))
        }
    }
}

/// How often it is asked before the head, and again after the break.
type RangeOf = (usize, usize);

fn c14(cell: Cell) -> Plan {
    let cases = [403, 404].map(|status| refusal(cell, Fault::status(status), &[404], (1, 1)));
    each(cell, cases.into())
}

fn c15(cell: Cell) -> Plan {
    let waits = ["1", "Sat, 06 Nov 2094 08:00:00 GMT", "0", "soon", "1000000000"];
    let cases = waits.map(|wait| {
        let answer = Fault::answer(429, &[("retry-after", wait)], "");
        refusal(cell, answer, &[429], (1, 1))
    });
    let plan = each(cell, cases.into());
    let Plan::Run(work) = plan else { return plan };
    run(async move {
        let seen = work.await?;
        if cell.phase == Phase::Head {
            says_when(cell).await?;
        }
        Ok(seen)
    })
}

/// Every 429 says when to come again, and never asks for more than five minutes.
async fn says_when(cell: Cell) -> Result<(), String> {
    for wait in ["1", "1000000000", "soon"] {
        let world = World::new(Setup::default()).await;
        world.registry.always(&world.line(), Fault::answer(429, &[("retry-after", wait)], ""));
        let got = all(world.pulls(cell.clients())).await;
        if let Some(other) = got.iter().find(|one| one.retry_after().is_none_or(|after| after > 300)) {
            return Err(format!("Retry-After: {wait} became {other:?}"));
        }
        end(world).await?;
    }
    Ok(())
}

fn c16(cell: Cell) -> Plan {
    let mut cases = Vec::new();
    for status in [500, 502, 503, 504] {
        let once = vec![Fault::status(status)];
        match cell.phase {
            Phase::Head => cases.push((Setup::default(), once, whole(2))),
            phase => {
                let faults = std::iter::once(Fault::CloseAt(stop_at(phase))).chain(once).collect();
                cases.push((Setup::default(), faults, whole(3)));
            }
        }
    }
    cases.push(refusal(cell, Fault::status(503), &[502], (3, 3)));
    // Behind the break of a longer body the tries are counted anew.
    if let Some((_, _, expect)) = cases.last_mut()
        && cell.phase != Phase::Head
    {
        expect.gets = 3..=4;
    }
    each(cell, cases)
}

fn c17(cell: Cell) -> Plan {
    let digest = Image::new(1, &[SIZE]).layers[0].digest;
    let circle = vec![Fault::Redirect(format!("/v2/a/b/blobs/{digest}")); 12];
    let inwards = vec![Fault::Redirect("http://169.254.169.254/latest/meta-data/".to_owned())];
    let elsewhere = vec![Fault::Redirect("ftp://127.0.0.1/blob".to_owned())];
    let cases = [circle, inwards, elsewhere].map(|faults| match cell.phase {
        Phase::Head => (Setup::default(), faults, refused(&[502], 1..=6)),
        phase => {
            let faults = std::iter::once(Fault::CloseAt(stop_at(phase))).chain(faults);
            (Setup::default(), faults.collect(), broken(2..=7))
        }
    });
    each(cell, cases.into())
}

fn c18(cell: Cell) -> Plan {
    run(async move {
        let cdn = Registry::open().await;
        let host = cdn.address().to_string();
        let change = move |spec: &mut binaryrepo::engine::RemoteSpec| spec.allowed_hosts = vec![host];
        let world = World::new(Setup { change: Box::new(change), ..Setup::default() }).await;
        cdn.add_image("a/b", "latest", &world.image);
        let address = |signature: u32| {
            let mut url = cdn.url();
            url.set_path(&format!("/v2/a/b/blobs/{}", world.layer.digest));
            url.set_query(Some(&format!("signature={signature}")));
            Fault::Redirect(url.to_string())
        };
        if cell.phase == Phase::After {
            world.cache_it().await?;
        }
        let gate = Gate::closed();
        let first = Fault::All(vec![Fault::Hold(gate.clone()), address(1)]);
        world.registry.script(&world.line(), [first, address(2), address(3)]);
        match cell.phase {
            Phase::Head => cdn.script("signature=1", [Fault::status(403)]),
            phase => cdn.script("signature=1", [Fault::CloseAt(stop_at(phase)), Fault::status(403)]),
        }
        // The address of the first answer has expired by the time of the second one.
        if cell.phase != Phase::Head {
            cdn.script("signature=2", [Fault::status(403)]);
        }
        let clients = world.pulls(cell.clients());
        if cell.phase != Phase::After {
            world.until_waiting(cell.clients()).await?;
        }
        gate.open();
        let got = all(clients).await;
        world.rest().await?;
        let expect = match cell.phase {
            Phase::Head => whole(2),
            Phase::After => whole(0),
            _ => whole(3),
        };
        let seen = expect.check(&world, &got)?;
        end(world).await?;
        Ok(seen)
    })
}

fn c19(cell: Cell) -> Plan {
    let encoded = Fault::headers(&[("content-encoding", "gzip")]);
    let page = Fault::answer(200, &[("content-type", "text/html")], "<html>log in</html>");
    let mut cases = vec![refusal(cell, encoded, &[502], (1, 1)), refusal(cell, page, &[502], (1, 1))];
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(8).into_bytes();
    if cell.phase == Phase::Head {
        cases.push((Setup::default(), vec![Fault::Raw(flood)], whole(2)));
    }
    each(cell, cases)
}
