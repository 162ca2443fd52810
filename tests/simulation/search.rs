//! Owns the exhaustive search: every order of a few events in a world of two keys, breadth first. What it finds is
//! found on a shortest path, and what it does not find is not there within its bounds.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::choice::Choice;
use crate::world::{Rules, World};

/// A state takes some kilobytes: a world larger than this is not a small one.
const STATES: usize = 500_000;

pub struct Searched {
    pub states: usize,
    pub depth: usize,
}

/// Visits every reachable state once, and looks at the rest of those from which nothing goes on by itself. The way to
/// such a state is made of choices too, so every state is on one.
pub fn search(rules: Rules) -> Result<Searched, String> {
    let mut frontier = vec![World::new(rules, None)?];
    let mut seen: HashSet<u64> = frontier.iter().map(fingerprint).collect();
    let mut depth = 0;
    while !frontier.is_empty() {
        depth += 1;
        let parts = std::thread::available_parallelism().map_or(1, usize::from);
        let found: Vec<Result<Vec<(u64, World)>, String>> = std::thread::scope(|scope| {
            let part = frontier.len().div_ceil(parts);
            let threads: Vec<_> =
                frontier.chunks(part).map(|worlds| scope.spawn(|| successors(worlds))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a search thread")).collect()
        });
        frontier.clear();
        for part in found {
            frontier
                .extend(part?.into_iter().filter(|(print, _)| seen.insert(*print)).map(|(_, world)| world));
        }
        if seen.len() > STATES {
            return Err(format!("more than {STATES} states: this world is too large to be searched"));
        }
    }
    Ok(Searched { states: seen.len(), depth })
}

fn successors(worlds: &[World]) -> Result<Vec<(u64, World)>, String> {
    let mut seen = HashSet::new();
    let mut next = Vec::new();
    let mut choices: Vec<Choice> = Vec::new();
    for world in worlds {
        world.choices(&mut choices);
        if world.is_quiet(&choices) {
            world.clone().come_to_rest()?;
        }
        for choice in &choices {
            let mut world = world.clone();
            world.apply(*choice).map_err(|what| format!("{choice:?}: {what}"))?;
            let print = fingerprint(&world);
            if seen.insert(print) {
                next.push((print, world));
            }
        }
    }
    Ok(next)
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
