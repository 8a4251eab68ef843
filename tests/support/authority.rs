//! Certificates, made by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::server::Server;

/// An authority and what it signs.
pub struct Authority {
    home: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { home: tempfile::tempdir().unwrap() };
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                         -subj /CN=authority -keyout ca.key -out ca.pem";
        authority.openssl(arguments);
        authority
    }

    /// A certificate for a name, in `NAME.pem` and `NAME.key`.
    pub fn sign(&self, name: &str) -> Identity {
        self.sign_for(name, &format!("DNS:{name}"))
    }

    /// The same, for whatever OpenSSL calls a `subjectAltName`.
    pub fn sign_for(&self, name: &str, alternative: &str) -> Identity {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -addext subjectAltName={alternative} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -copy_extensions copy -out {name}.pem"
        ));
        Identity::from_pem(self.read(&format!("{name}.pem")), self.read(&format!("{name}.key")))
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.home.path())
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }

    pub fn path(&self, file: &str) -> String {
        self.home.path().join(file).to_str().unwrap().into()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(Path::new(&self.path(file))).unwrap()
    }

    /// A connection to a server that this authority vouches for.
    pub async fn connect(
        &self,
        server: &Server,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let ca = Certificate::from_pem(self.read("ca.pem"));
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        let url = format!("https://{}", server.address());
        Endpoint::from_shared(url).unwrap().tls_config(tls)?.connect().await
    }
}
