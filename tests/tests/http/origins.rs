//! Pages of other origins, other names, and files.

use super::*;

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_anything_happens() {
    let site = site("").await;
    let own = format!("origin: {}", site.url(""));
    site.call("/echo/say", json!({ "text": "" }), &["--header", &own]).await.ok();
    for other in ["origin: https://evil.example", "origin: null", "origin: http://localhost"] {
        let refused = site.call("/echo/say", json!({ "text": "" }), &["--header", other]).await;
        refused.problem(403, "FORBIDDEN");
        assert_eq!(refused.header("access-control-allow-origin"), None);
        let refused = site.curl("/subscribe?operation=native/count", &["--header", other]).await;
        refused.problem(403, "FORBIDDEN");
        site.post("/mcp", &json!({}), &["--header", other]).await.problem(403, "FORBIDDEN");
    }
    let asked = ["--request", "OPTIONS", "--header", "access-control-request-method: POST"];
    let asked = [&asked[..], &["--header", "origin: https://a.b"]].concat();
    let preflight = site.curl("/call", &asked).await;
    assert_eq!(preflight.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn named_origins_and_hosts_alone_are_taken() {
    let site = site(r#"origins = ["https://app.example"], hosts = ["localhost"]"#).await;
    let app = ["--header", "origin: https://app.example"];
    let said = site.call("/echo/say", json!({ "text": "" }), &app).await;
    said.ok();
    assert_eq!(said.header("access-control-allow-origin"), Some("https://app.example"));
    let asked = [
        "--request",
        "OPTIONS",
        "--header",
        "access-control-request-method: POST",
        "--header",
        "access-control-request-headers: authorization,content-type",
    ];
    let preflight = site.curl("/call", &[&asked[..], &app].concat()).await;
    assert_eq!(preflight.status, 200);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(preflight.header("access-control-allow-credentials"), None);
    site.call(
        "/echo/say",
        json!({ "text": "" }),
        &["--header", "origin: https://app.example.evil"],
    )
    .await
    .problem(403, "FORBIDDEN");
    for flag in ["--http1.1", "--http2"] {
        let other = site.curl("/search", &[flag, "--header", "host: node.test"]).await;
        assert!(other.problem(421, "NOT_FOUND")["detail"].as_str().unwrap().contains("`hosts`"));
        site.curl("/healthz", &[flag, "--header", "host: node.test"]).await.ok();
    }
}

#[tokio::test]
async fn a_folder_is_served_and_nothing_outside_of_it() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("site");
    std::fs::create_dir_all(root.join(".git")).unwrap();
    std::fs::create_dir_all(root.join("empty")).unwrap();
    for (file, text) in [
        ("a.txt", "a"),
        ("page.html", "<p>page"),
        (".git/config", "hidden"),
        ("../secret", "secret"),
    ] {
        std::fs::write(root.join(file), text).unwrap();
    }
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink("a.txt", root.join("inside")).unwrap();
    std::fs::write(outside.path().join("front.html"), "<h1>It works").unwrap();
    let front = outside.path().join("front.html");
    let site = site(&format!("static_root = {root:?}, front_page = {front:?}")).await;
    let front = site.curl("/", &[]).await;
    assert_eq!((front.status, &*front.body), (200, "<h1>It works"));
    assert_eq!(front.header("content-type"), Some("text/html; charset=utf-8"));
    let page = site.curl("/page.html", &[]).await;
    assert_eq!((&*page.body, page.header("content-type")), ("<p>page", Some("text/html")));
    assert_eq!(site.curl("/inside", &[]).await.body, "a");
    for away in [
        "/link",
        "/../secret",
        "/%2e%2e/secret",
        "/.git/config",
        "/empty/",
        "/none",
        "//etc/passwd",
    ] {
        let told = site.curl(away, &["--path-as-is"]).await;
        told.problem(404, "NOT_FOUND");
    }
    site.curl("/a.txt", &["--request", "POST"]).await.problem(405, "INVALID_INPUT");
    site.curl("/healthz", &[]).await.ok();
}
