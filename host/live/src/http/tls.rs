//! TLS for every HTTP client of this crate: one crypto provider, and the
//! machine's own root certificates.

use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_platform_verifier::BuilderVerifierExt;
use windlass_model::CallError;

static CONFIG: OnceLock<ClientConfig> = OnceLock::new();

/// Makes ring the process's provider, unless it has one.
pub(crate) fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread was faster: then it has one, too.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// The configuration, made once: reading the roots takes milliseconds.
pub(crate) fn config() -> Result<ClientConfig, CallError> {
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let failed = |why: String| {
        CallError::unavailable(
            "http.no-tls",
            format!("this machine has no usable root certificates: {why}"),
        )
        .hint("install the package ca-certificates, or set SSL_CERT_FILE")
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| failed(error.to_string()))?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(CONFIG.get_or_init(|| config).clone())
}

/// What every client of this crate has in common: no ambient proxy, no
/// redirects of its own, the machine's roots.
pub(crate) fn client_builder() -> Result<reqwest::ClientBuilder, CallError> {
    install_provider();
    Ok(reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(config()?))
}

/// The same without TLS, for a machine that has no roots and needs none.
pub(crate) fn plain_client_builder() -> reqwest::ClientBuilder {
    install_provider();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("windlass/", env!("CARGO_PKG_VERSION")));
    // With no roots at all every certificate is refused.
    match ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() {
        Ok(config) => builder.tls_backend_preconfigured(
            config
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        ),
        Err(_) => builder,
    }
}
