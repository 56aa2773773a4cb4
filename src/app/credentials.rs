//! The providers of credentials: one arm for each kind.

use std::sync::Arc;

use tracing::warn;

use crate::credential::{
    Around, AwsProvider, AzureProvider, CertificateProvider, CommandProvider, CredentialProvider,
    GithubAppProvider, Kind, OauthProvider, Spec, SpiffeProvider, StaticProvider, VaultProvider,
};
use crate::proxy::UpstreamSettings;

use super::hex;

pub(super) async fn providers(
    (specs, upstream): (&[Spec], &UpstreamSettings),
    around: &Around<'_>,
) -> Vec<(Spec, Arc<dyn CredentialProvider>)> {
    let mut entries: Vec<(Spec, Arc<dyn CredentialProvider>)> = Vec::with_capacity(specs.len());
    let reached: Arc<str> = hex(format!("{:?}", (&upstream.trust, &upstream.connect_to))).into();
    for spec in specs {
        let provider: Arc<dyn CredentialProvider> = match &spec.kind {
            Kind::Static { value } => {
                let watched = around.watcher.watch(value, around.env).await;
                if let Err(error) = watched.current() {
                    warn!(credential = %spec.name, %error, "the credential has no value yet; requests that need it are refused");
                }
                Arc::new(StaticProvider::new(watched))
            }
            Kind::Aws(aws) => {
                let (secrets, clock) = ((around.watcher, around.env), Arc::clone(around.clock));
                let opened = AwsProvider::open(aws, &spec.name, secrets, around.network, clock);
                Arc::new(opened.await)
            }
            Kind::Oauth(settings) => {
                let settings = (**settings).clone();
                Arc::new(OauthProvider::open(&spec.name, settings, around).await)
            }
            Kind::GithubApp(settings) => {
                Arc::new(GithubAppProvider::open((**settings).clone(), around).await)
            }
            Kind::Azure(settings) => {
                let settings = (**settings).clone();
                Arc::new(AzureProvider::open(&spec.name, settings, around).await)
            }
            Kind::Command(settings) => Arc::new(CommandProvider::new(
                spec.name.clone(),
                settings.clone(),
                around.env,
            )),
            Kind::ClientCertificate(settings) => {
                let (name, secrets) = (spec.name.clone(), (around.watcher, around.env));
                let provider = CertificateProvider::open(name, settings, secrets).await;
                if let Err(error) = provider.current() {
                    warn!(credential = %spec.name, %error, "the certificate or its key cannot be read yet; requests that need them are refused");
                }
                Arc::new(provider)
            }
            Kind::Spiffe(settings) => {
                let name = spec.name.clone();
                Arc::new(SpiffeProvider::open(name, settings, around).await)
            }
            Kind::Vault(settings) => {
                let (name, clock) = (spec.name.clone(), Arc::clone(around.clock));
                let secrets = (around.watcher, around.env);
                Arc::new(VaultProvider::open(name, settings, secrets, around.network, clock).await)
            }
        };
        let mut spec = spec.clone();
        if spec.kind.calls_issuer() {
            spec.network = Arc::clone(&reached);
        }
        entries.push((spec, provider));
    }
    entries
}
