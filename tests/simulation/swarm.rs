//! Owns random schedules. Each seed draws its own world and its own odds, with some kinds of events nearly absent:
//! a bug that hides behind common events shows in a world where they are rare.

use binaryrepo::cache::{Bug, Failure, Limits};

use crate::choice::{Choice, KINDS};
use crate::names::NEGATIVE_MS;
use crate::prng::Dice;
use crate::world::{Rules, World};

/// What went wrong, and how to see it again.
pub struct Finding {
    pub seed: u64,
    pub what: String,
    pub trace: Vec<Choice>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for choice in &self.trace {
            writeln!(f, "  {choice:?}")?;
        }
        writeln!(f, "{}", self.what)?;
        write!(
            f,
            "to see it again: SIM_SEED={} cargo test --features planted-bugs --test simulation",
            self.seed
        )
    }
}

/// One schedule, from its seed alone.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<(), Finding> {
    let mut trace = Vec::new();
    play(seed, bug, &mut trace).map_err(|what| Finding { seed, what, trace })
}

fn play(seed: u64, bug: Option<Bug>, trace: &mut Vec<Choice>) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let weights: [usize; KINDS] = std::array::from_fn(|_| dice.pick(&[0, 1, 1, 4, 4, 16]));
    let mut world = World::new(rules(&mut dice), bug)?;
    let mut choices = Vec::new();
    for _ in 0..20 + dice.below(100) {
        world.choices(&mut choices);
        if let Some(choice) = choose(&mut dice, &weights, &choices) {
            trace.push(choice);
            world.apply(choice)?;
        }
    }
    world.come_to_rest()
}

fn rules(dice: &mut Dice) -> Rules {
    let spaces = [0, 8, 12, 20, 40, 1_000];
    let blobs = dice.pick(&[1, 2, 3, 4]);
    let [files, rows] = [(); 2].map(|()| {
        let share = dice.pick(&[0, 1, 1, 2]);
        (0..blobs).filter(|_| dice.below(3) < share).collect()
    });
    Rules {
        blobs,
        files,
        rows,
        documents: dice.pick(&[0, 0, 1, 2]),
        sources: dice.pick(&[1, 2, 3, 4]),
        limits: Limits {
            content_fills: dice.pick(&[1, 2, 3]),
            content_fills_per_upstream: dice.pick(&[1, 2]),
            pointer_fills: dice.pick(&[1, 2]),
            pointer_fills_per_upstream: dice.pick(&[1, 2]),
            low_mark_percent: dice.pick(&[50, 90, 100]),
        },
        spaces: vec![dice.pick(&spaces[1..]), dice.pick(&spaces)],
        failures: vec![
            Failure::Transport,
            Failure::NotFound,
            Failure::RateLimited { retry_after_ms: dice.pick(&[1_000, 1_000_000]) },
            Failure::Mismatch,
            Failure::NoSpace,
            Failure::Died,
            Failure::Died,
        ],
        waits: vec![1, NEGATIVE_MS, 3_000, 100_000],
        budget: [u32::MAX; KINDS],
    }
}

/// First the kind by its weight, then any of that kind.
fn choose(dice: &mut Dice, weights: &[usize; KINDS], choices: &[Choice]) -> Option<Choice> {
    let mut open = [0; KINDS];
    choices.iter().for_each(|choice| open[choice.kind()] += 1);
    let total: usize = (0..KINDS).filter(|kind| open[*kind] > 0).map(|kind| weights[kind]).sum();
    let mut at = (total > 0).then(|| dice.below(total))?;
    let kind = (0..KINDS).filter(|kind| open[*kind] > 0).find(|kind| {
        let found = at < weights[*kind];
        at = at.saturating_sub(weights[*kind]);
        found
    })?;
    let nth = dice.below(open[kind]);
    choices.iter().filter(|choice| choice.kind() == kind).nth(nth).copied()
}
