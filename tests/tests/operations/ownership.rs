//! Resources that belong to whoever made them.

use alknet_plugin_api::code;
use alknet_tests::secrets::{add_vault, use_the_vaults_key};

use super::*;

#[tokio::test]
async fn who_makes_a_resource_owns_it_also_after_a_restart() {
    let node = node().await;
    let client = node.client().await;
    for space in ["native", "confined"] {
        let op = |of: &str| format!("/{space}/{of}");
        let id = |id: &str| json!({ "id": id });
        assert_eq!(
            ask_as(&client, READER, &op("list"), json!(null)).await.unwrap(),
            json!({ "ids": [] })
        );
        for note in ["n2", "n1"] {
            ask_as(&client, READER, &op("create"), id(note)).await.unwrap();
        }
        let taken = ask_as(&client, INNER, &op("create"), id("n1")).await.unwrap_err();
        assert_eq!(taken.code, "NOTE_EXISTS");
        ask_as(&client, INNER, &op("create"), id("n3")).await.unwrap();

        let read = ask_as(&client, READER, &op("read"), id("n1")).await.unwrap();
        assert_eq!(read, json!({ "id": "n1", "owned": true }));
        let list = ask_as(&client, READER, &op("list"), json!(null)).await.unwrap();
        assert_eq!(list, json!({ "ids": ["n1", "n2"] }));
        // Another's, nobody's, and none.
        for note in ["n3", "n9"] {
            let error = ask_as(&client, READER, &op("read"), id(note)).await.unwrap_err();
            assert_eq!(error.code, code::FORBIDDEN);
        }
        let error = ask_as(&client, READER, &op("read"), json!({})).await.unwrap_err();
        assert_eq!(error.code, code::INVALID_INPUT, "c26");
        let gone = ask_as(&client, READER, &op("delete"), id("n2")).await.unwrap();
        assert_eq!(gone, json!({ "revoked": true }));
        assert_eq!(
            ask_as(&client, READER, &op("read"), id("n2")).await.unwrap_err().code,
            code::FORBIDDEN
        );

        // Composed, the composing plugin's authority owns.
        let other = if space == "native" { "confined" } else { "native" };
        let make = json!({ "name": format!("{space}/create"), "input": id("of-tree") });
        let made = client.ask(&format!("/{other}/compose"), make).await.unwrap();
        assert_eq!(made["answer"]["id"], "of-tree", "{made}");
        let read = json!({ "name": format!("{space}/read"), "input": id("of-tree") });
        let read = client.ask(&format!("/{other}/compose"), read).await.unwrap();
        assert_eq!(read["answer"]["owned"], true);
        let error = ask_as(&client, READER, &op("read"), id("of-tree")).await.unwrap_err();
        assert_eq!(error.code, code::FORBIDDEN);

        // Only the types of its stanza are the plugin's.
        for kind in [format!("{other}-note"), "other".to_owned()] {
            let error = ask_as(&client, READER, &op("grab"), json!(kind)).await.unwrap_err();
            assert_eq!(error.code, code::INTERNAL);
            assert!(error.message.contains("does not keep resources"), "{error:?}");
        }
    }
    // c30: a listing shows what somebody owns any of.
    let listed = async |client: &Client, token: &str| {
        let list = ask_as(client, token, "/services/list", json!({})).await.unwrap();
        list["operations"].as_array().unwrap().iter().any(|one| one["name"] == "native/read")
    };
    assert!(listed(&client, READER).await);
    ask_as(&client, READER, "/native/delete", json!({ "id": "n1" })).await.unwrap();
    assert!(!listed(&client, READER).await);
    drop(client);

    let node = node.killed().await;
    let file = node.read("state/ownership.jsonl");
    assert!(file.lines().count() >= 10, "{file}");
    let node = node.start(&[]).await;
    let client = node.client().await;
    let read = ask_as(&client, READER, "/confined/read", json!({ "id": "n1" })).await.unwrap();
    assert_eq!(read["owned"], true);
    assert!(!listed(&client, READER).await);
}

/// A node that the kernel keeps to its own files still opens its vault and writes
/// down its owners and decisions, also after a restart and a rotation.
#[tokio::test]
async fn a_confined_node_has_its_vault_and_keeps_owners_and_an_audit_log() {
    let node = folder();
    node.append("node.toml", "[sandbox]\nfiles = true\n[observe.audit]\n");
    add_vault(&node, &[]);
    use_the_vaults_key(&node);
    node.alknet(["check"]).await.text();
    let mut node = node.start(&[]).await;
    for restart in 0..2 {
        let client = node.client().await;
        let status = client.ask("/node/status", json!({})).await.unwrap();
        assert!(status["confinement"].is_object(), "{status}");
        if status["confinement"]["enforced"] == "none" {
            eprintln!("NOT CHECKED: this kernel has no Landlock, so that nothing is confined");
        }
        for space in ["native", "confined"] {
            let create = format!("/{space}/create");
            let own = json!({ "id": format!("n{restart}") });
            ask_as(&client, READER, &create, own).await.unwrap();
            let first = json!({ "id": "n0" });
            let read = ask_as(&client, READER, &format!("/{space}/read"), first).await.unwrap();
            assert_eq!(read["owned"], true);
            observe::written(&node, "state/audit.jsonl", |line| {
                line["operation"] == create[1..] && line["subject"] == "alk_read"
            })
            .await;
        }
        std::fs::rename(node.file("state/audit.jsonl"), node.file("state/audit.old")).unwrap();
        node.process().signal("HUP").await;
        node.logged("the audit log is opened anew").await;
        client.ask("/native/context", json!(null)).await.unwrap();
        observe::written(&node, "state/audit.jsonl", |line| line["operation"] == "native/context")
            .await;
        drop(client);
        node = node.killed().await.start(&[]).await;
    }
    assert_eq!(node.read("state/ownership.jsonl").lines().count(), 4);
}

#[tokio::test]
async fn a_damaged_file_of_owners_stops_the_start() {
    let node = folder();
    node.write(
        "state/ownership.jsonl",
        "{\"owner\":\"ada\",\"type\":\"native-note\",\"id\":\"n\"}\nx\n",
    );
    let check = node.alknet(["check"]).await;
    assert!(check.refused(78).contains("ownership.jsonl:2 is not a change of owner"), "{check:?}");
}

#[tokio::test]
async fn two_plugins_cannot_keep_one_type() {
    let node = folder();
    node.replace("node.toml", "owns = [\"confined-note\"]", "owns = [\"native-note\"]");
    let check = node.alknet(["check"]).await;
    assert!(check.refused(78).contains("`native-note` are kept by `native` already"), "{check:?}");
}
