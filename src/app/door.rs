//! What the `tls:` addresses of a listener show.

use std::sync::Arc;

use crate::agent::Name;
use crate::clock::Clock;
use crate::proxy::{BindError, ListenerSettings, ListenerTls};
use crate::secret::Secret;
use crate::tls::FrontDoor;

use super::{Environment, StartError, lookup};

pub(super) fn unbound(error: BindError) -> StartError {
    let cause = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    StartError::Bind(error, cause)
}

/// What the `tls:` addresses of a listener show.
pub(super) async fn front_door(
    listener: &ListenerSettings,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<FrontDoor>>, StartError> {
    let Some(tls) = &listener.tls else {
        return Ok(None);
    };
    let (chain, key) = certificate(&listener.name, tls, environment).await?;
    let door = FrontDoor::new(&chain, &key, Arc::clone(clock));
    let door = door.map_err(|error| undoored(&listener.name, &error))?;
    Ok(Some(Arc::new(door)))
}

pub(super) async fn certificate(
    name: &Name,
    tls: &ListenerTls,
    environment: &Environment,
) -> Result<(Vec<u8>, Secret), StartError> {
    let chain = tokio::fs::read(&tls.cert).await;
    let chain = chain.map_err(|error| undoored(name, &error))?;
    let key = tls.key.read(&lookup(environment)).await;
    Ok((chain, key.map_err(|error| undoored(name, &error))?))
}

pub(super) fn undoored(name: &Name, why: &dyn ToString) -> StartError {
    StartError::Door(name.clone(), why.to_string())
}
