//! `image-verifier`: an operator's command that says whether an image is signed as it must be.
//!
//! One JSON object goes in for each image, and `{}` with the code 0 comes out where it may run. Its word is kept by image
//! and digest for a bounded time, and asked for once however many wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::warn;

use super::pod::digest_of;
use crate::clock::Clock;
use crate::identity::AttestError;
use crate::identity::flight::Flights;
use crate::identity::settings::ImageVerifier;
use crate::process::{self, Env, Surroundings};

/// Asks the command, and remembers.
#[derive(Debug)]
pub(super) struct Verifier {
    settings: ImageVerifier,
    surroundings: Surroundings,
    /// What was said of an image, and until when that counts.
    said: Mutex<HashMap<String, (Result<(), AttestError>, Instant)>>,
    flights: Flights<String, Result<(), AttestError>>,
    turns: Semaphore,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    pub(super) fn new(settings: &ImageVerifier, env: Env<'_>, clock: Arc<dyn Clock>) -> Self {
        let kept = settings.env.iter().map(String::as_str);
        Self {
            surroundings: Surroundings::keeping(env, ["PATH"].into_iter().chain(kept)),
            settings: settings.clone(),
            said: Mutex::default(),
            flights: Flights::default(),
            turns: Semaphore::new(AT_A_TIME),
            clock,
        }
    }

    /// Whether all of these may run.
    pub(super) async fn verify(&self, images: &[&str]) -> Result<(), AttestError> {
        for image in images {
            if let Some(said) = self.known(image) {
                said?;
                continue;
            }
            let flight = self.flights.join((*image).to_owned(), self.ask(image));
            flight.await?;
        }
        Ok(())
    }

    fn known(&self, image: &str) -> Option<Result<(), AttestError>> {
        let said = self.said.lock();
        let (said, until) = said.get(image)?;
        (self.clock.now().mono < *until).then_some(*said)
    }

    async fn ask(&self, image: &str) -> Result<(), AttestError> {
        // Somebody may have asked between the look and the flight.
        if let Some(said) = self.known(image) {
            return said;
        }
        let said = self.run(image).await;
        let kept = match said {
            Ok(()) => self.settings.ttl,
            Err(_) => AGAIN,
        };
        let now = self.clock.now().mono;
        let mut all = self.said.lock();
        if all.len() >= MOST {
            all.retain(|_, (_, until)| now < *until);
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(image.to_owned(), (said, now + kept));
        said
    }

    async fn run(&self, image: &str) -> Result<(), AttestError> {
        let ask = json!({
            "version": 1, "op": "verify-image", "image": image, "digest": digest_of(image),
        });
        let _turn = self.turns.acquire().await;
        let (settings, input) = (&self.settings, format!("{ask}\n"));
        let run = process::run(
            &settings.run,
            input.as_bytes(),
            settings.max_output,
            &self.surroundings,
        );
        let output = match tokio::time::timeout(settings.deadline, run).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                warn!(%error, image, "the image verifier gave no answer");
                return Err(AttestError::Unavailable);
            }
            Err(_) => {
                warn!(image, "the image verifier took too long");
                return Err(AttestError::Unavailable);
            }
        };
        let answer = serde_json::from_slice::<Value>(&output.stdout).ok();
        let members = answer.as_ref().and_then(Value::as_object);
        if output.status.success() && members.is_some_and(serde_json::Map::is_empty) {
            return Ok(());
        }
        warn!(image, "the image verifier does not accept an image");
        Err(AttestError::Bad)
    }
}

/// How many commands run at a time.
const AT_A_TIME: usize = 4;
/// How long a refusal, or silence, counts.
const AGAIN: Duration = Duration::from_secs(10);
/// The most images that are remembered.
const MOST: usize = 1024;
