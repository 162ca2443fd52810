//! Owns pushes by every client, and pulls of what they pushed. Must not know: how a client is told to.

use crate::pushers::{ALL, Hand, Pusher, Site};
use crate::trouble::{Context, Outcome, ensure};
use crate::world::{CLOSED, LOCAL, MEMBER, World, step};
use std::time::{Duration, Instant};

/// A client that understands why it was refused says so at once.
const TOLD: Duration = Duration::from_secs(20);

/// Without users: who is on this machine pushes, without a log-in.
pub fn direct(world: &mut World) -> Outcome {
    world.serve()?;
    let site = Site::direct(&format!("{LOCAL}/team"));
    for pusher in ALL {
        let hand = world.hand(pusher, &site)?;
        let begun = Instant::now();
        let name = format!("direct-{}", pusher.name());
        let image = hand.stock(&world.maker, &world.upstream, &name)?;
        hand.push(&name)?.success()?;
        hand.pull(&name)?.success()?;
        hand.check(&name, &image)?;
        step(&format!("{:<8}pushed and pulled back, {:.1?}", pusher.name(), begun.elapsed()));
    }
    Ok(())
}

/// With users, through nginx: one host takes pushes of who has logged in, and shows them to anybody.
pub fn login(world: &mut World) -> Outcome {
    world.serve_users()?;
    let site = Site::nginx("docker-local.binaryrepo.local", "team");
    for pusher in ALL {
        let mut hand = world.hand(pusher, &site)?;
        let name = format!("login-{}", pusher.name());
        let image = hand.stock(&world.maker, &world.upstream, &name)?;
        let begun = Instant::now();
        refused(&hand, "an anonymous push", &hand.push(&name)?.failure()?)?;
        let took = begun.elapsed();
        // Tried again and again, it would take docker a minute.
        ensure!(took < TOLD, "{} took {took:.1?} to say that a push was refused", pusher.name());
        wrong_password(&hand)?;
        hand.login(MEMBER)?;
        hand.push(&name)?.success()?;
        hand.logout()?;
        hand.pull(&name)?.success().context("pulled by anybody")?;
        hand.check(&name, &image)?;
        step(&format!("{:<8}refused after {took:.1?}; pushed logged in, pulled by anybody", pusher.name()));
    }
    Ok(())
}

/// With users, without a proxy, where nothing is shown to who has not logged in.
pub fn closed(world: &mut World) -> Outcome {
    world.serve_users()?;
    let site = Site::direct(&format!("{CLOSED}/team"));
    for pusher in ALL {
        let mut hand = world.hand(pusher, &site)?;
        let name = format!("closed-{}", pusher.name());
        let image = hand.stock(&world.maker, &world.upstream, &name)?;
        hand.login(MEMBER)?;
        hand.push(&name)?.success()?;
        hand.logout()?;
        refused(&hand, "an anonymous pull", &hand.pull(&name)?.failure()?)?;
        hand.login(MEMBER)?;
        hand.pull(&name)?.success().context("pulled logged in")?;
        hand.check(&name, &image)?;
        step(&format!("{:<8}pushed and pulled logged in, nothing for anybody else", pusher.name()));
    }
    Ok(())
}

fn wrong_password(hand: &Hand) -> Outcome {
    // A name of its own each: guesses at one name are slowed down.
    let nobody = format!("mallory-{}", hand.pusher.name());
    // crane writes down what it is given without asking.
    match hand.login_command(&nobody, "wrong").filter(|_| hand.pusher != Pusher::Crane) {
        Some(login) => refused(hand, "a wrong password", &login.done()?.failure()?),
        None => Ok(()),
    }
}

/// The client must say that it is a matter of permission.
fn refused(hand: &Hand, what: &str, said: &str) -> Outcome {
    let lower = said.to_lowercase();
    let named = ["unauthorized", "authentication", "authorization", "401", "log in", "password"];
    let name = hand.pusher.name();
    ensure!(named.iter().any(|word| lower.contains(word)), "{name} says of {what} only: {said}");
    Ok(())
}
