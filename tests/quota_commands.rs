//! `img2text quota` covers every call of the accounts, for people and for programs.

use std::process::Output;

use serde_json::Value;

use crate::support::server::Server;

struct Shop {
    server: Server,
}

impl Shop {
    fn run(&self, arguments: &str) -> Output {
        let arguments = ["quota"].into_iter().chain(arguments.split_whitespace());
        self.server.command(arguments.map(|argument| argument.replace('_', " ")))
    }

    fn json(&self, arguments: &str) -> Value {
        let output = self.run(&format!("{arguments} --json"));
        assert!(output.status.success(), "{arguments}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn text(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn refusal(&self, arguments: &str) -> (i32, String) {
        let output = self.run(arguments);
        let code = output.status.code().expect("it ended by itself");
        assert_ne!(code, 0, "{arguments}: {output:?}");
        (code, String::from_utf8(output.stderr).expect("text"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_does_what_it_says() {
    let shop = Shop { server: Server::start() };

    let plans = shop.json("plans");
    assert_eq!(plans["plans"][0], serde_json::json!({ "plan": "10", "quota": 10 }));
    assert_eq!(
        (plans["free_allowance"].as_u64(), &plans["free_monthly"]),
        (Some(3), &false.into())
    );

    let bought = shop.json("activate 42 30 --id pay-1");
    assert_eq!((&bought["replayed"], &bought["available"]["plan"]), (&false.into(), &30.into()));
    let again = shop.json("activate 42 30 --id pay-1");
    assert_eq!((&again["replayed"], &again["available"]["plan"]), (&true.into(), &30.into()));
    let (code, why) = shop.refusal("activate 42 100 --id pay-1");
    assert!(code == 3 && why.contains("[ALREADY_EXISTS]"), "{code} {why}");
    let (code, why) = shop.refusal("activate 42 gold");
    assert!(code == 3 && why.contains("[UNKNOWN_PLAN]"), "{code} {why}");
    assert!(why.contains("--id "), "a command that failed can be given again: {why}");

    assert_eq!(shop.json("grant 42 5 --id pay-2")["available"]["extra"], 5);
    let adjusted = shop.json("adjust 42 extra -2 --reason a_mistake --id fix-1");
    assert_eq!(adjusted["available"]["extra"], 3);
    let (code, why) = shop.refusal("adjust 42 extra 0 --reason a_mistake");
    assert!(code == 3 && why.contains("delta"), "{code} {why}");

    let hold = img2text::grpc::proto::ReserveQuotaRequest {
        user_id: "42".into(),
        reservation_id: "held-1".into(),
        amount: 4,
        ..Default::default()
    };
    shop.server.quota().await.reserve_quota(hold).await.expect("held");
    let holds = shop.json("holds 42");
    assert_eq!(
        (&holds[0]["reservation_id"], &holds[0]["held"]["free"]),
        (&"held-1".into(), &3.into())
    );
    assert!(shop.text("holds 42").contains("held-1"));
    let released = shop.json("release 42 held-1 --reason its_holder_is_gone");
    assert_eq!(released["held"], serde_json::json!({ "free": 0, "plan": 0, "extra": 0 }));
    assert_eq!(shop.json("cancel 42")["plan_cancelled"], true);
    assert!(shop.text("get 42").contains("30 (ends with the next reset)"));

    let kinds: Vec<String> = shop
        .json("history 42")
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["kind"].as_str().expect("a kind").to_string())
        .collect();
    let expected =
        ["plan-cancelled", "released", "adjusted", "extra-granted", "plan-activated", "opened"];
    assert_eq!(kinds, expected);
    let adjusted = shop.json("history 42 --kind adjusted --kind released");
    assert_eq!(adjusted.as_array().map(Vec::len), Some(2));
    assert_eq!(adjusted[0]["detail"], "its holder is gone");
    assert_eq!(shop.json("history 42 --limit 2").as_array().map(Vec::len), Some(2));
    assert_eq!(shop.json("history 42 --until 2000-01-01T00:00:00Z"), serde_json::json!([]));
    let usage = shop.json("usage 42");
    assert_eq!((&usage[0]["entries"], &usage[0]["granted"]["extra"]), (&6.into(), &5.into()));

    shop.json("grant 43 1");
    assert_eq!(shop.json("users"), serde_json::json!(["42", "43"]));
    assert_eq!(shop.json("audit"), serde_json::json!({ "accounts": 2, "findings": [] }));
    assert!(shop.text("audit 42").contains("1 accounts checked, all add up"));
    assert_eq!(shop.json("export 42")["main"]["extra_remaining"], "3");
    shop.text("statistics");

    let (code, why) = shop.refusal("delete 43");
    assert!(code == 2 && why.contains("--yes"), "{code} {why}");
    shop.json("delete 43 --yes");
    let (code, why) = shop.refusal("get 43");
    assert!(code == 3 && why.contains("[ACCOUNT_DELETED]"), "{code} {why}");
    assert_eq!(shop.json("users"), serde_json::json!(["42"]));

    // Somebody changes what only the scripts may change.
    shop.server.redis_cli(&["HINCRBY", "{sub:user:42}:account", "spent_plan", "7"]);
    let output = shop.run("audit --json");
    assert_eq!(output.status.code(), Some(3));
    let audit: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = &audit["findings"][0];
    assert_eq!((&finding["user_id"], &finding["expected"]), (&"42".into(), &30.into()));
    assert_eq!(finding["found"], 37, "{finding}");
}
