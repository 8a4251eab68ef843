//! What is shipped for running in production is well-formed and says the same everywhere.

use std::fs;

use crate::support::tools::{root, tool};

#[test]
fn the_kubernetes_manifests_fit_the_schemas() {
    for name in ["img2text.yaml", "redis.yaml", "backup.yaml"] {
        let file = root().join("deploy/kubernetes").join(name);
        let output = tool("kubernetes-validate").arg("--strict").arg(&file).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        // The checker does notice what is wrong.
        let wrong = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&wrong, text.replace("\nspec:\n", "\nspce:\n")).unwrap();
        let output =
            tool("kubernetes-validate").arg("--strict").arg(wrong.path()).output().unwrap();
        assert!(!output.status.success(), "{name}: {output:?}");
    }
}

/// The Redis of Kubernetes is set as that of Compose.
#[test]
fn redis_is_set_the_same_everywhere() {
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(String::from).collect()
    };
    let compose = fs::read_to_string(root().join("deploy/redis.conf")).unwrap();
    let manifest = fs::read_to_string(root().join("deploy/kubernetes/redis.yaml")).unwrap();
    let block = manifest.split("redis.conf: |").nth(1).unwrap().split("\n---").next().unwrap();
    assert_eq!(settings(block), settings(&compose));
}

/// Whoever calls a server that was set up with these files has to say who it is.
#[test]
fn callers_need_a_token_everywhere() {
    for name in ["compose.yaml", "kubernetes/img2text.yaml"] {
        let text = fs::read_to_string(root().join("deploy").join(name)).unwrap();
        assert!(!text.contains("--insecure"), "{name}");
        let (_, setting) = text.split_once("IMG2TEXT_AUTH_CALLERS").expect(name);
        let (_, file) = setting.split_once(": ").expect(name);
        assert!(file.starts_with("/etc/img2text/callers.toml\n"), "{name}");
        assert!(
            text.contains("mountPath: /etc/img2text") || text.contains("target: /etc/img2text")
        );
    }
}
