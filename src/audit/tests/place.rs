//! Where a trail lies: whose it is, who else writes there, and rotation.

use super::*;

#[test]
fn files_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    trail(&dir.path().join("audit.jsonl"), 1);
    for name in ["audit.jsonl", "audit.key", "audit.checkpoints"] {
        let mode = dir
            .path()
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_file_that_holds_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    std::fs::write(&path, "root:x:0:0\n").unwrap();
    let refused = Audit::open(at(&path), clock());
    assert!(matches!(refused, Err(AuditError::NotATrail { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"root:x:0:0\n");
    let link = dir.path().join("link.jsonl");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    assert!(matches!(
        Audit::open(at(&link), clock()),
        Err(AuditError::Open { .. })
    ));
    assert!(!dir.path().join("elsewhere").exists());
    let nowhere = dir.path().join("no/such/audit.jsonl");
    assert!(matches!(
        Audit::open(at(&nowhere), clock()),
        Err(AuditError::Open { .. })
    ));
}

#[test]
fn a_second_writer_is_refused_or_writes_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let first = Audit::open(at(&path), clock()).unwrap();
    assert!(matches!(
        Audit::open(at(&path), clock()),
        Err(AuditError::InUse { .. })
    ));
    let second = Audit::open_beside(&at(&path), &clock()).unwrap();
    second.close();
    first.close();
    assert!(check(&path).ok);
    assert!(check(&dir.path().join("audit-2.jsonl")).ok);
}

#[test]
fn rotation_keeps_the_chain_and_prunes_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let settings = Settings {
        rotate_at: 8 * 1024,
        keep: 3,
        ..at(&path)
    };
    let audit = Audit::open(settings, clock()).unwrap();
    runtime(1).block_on(async {
        for n in 0..400 {
            exchange(&audit, &format!("r-{n}")).await.unwrap();
            if n % 8 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(4)).await;
            }
        }
    });
    audit.close();
    let mut files: Vec<PathBuf> = sink::rotated(&path)
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    assert_eq!(files.len(), 3);
    let oldest = verify(&files[..1], &Options::default()).unwrap();
    assert!(oldest.ok, "{oldest:?}");
    files.insert(0, path.clone());
    let report = verify(&files, &Options::default()).unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.last, Some(802));
    assert!(report.first > Some(1));
    let whole = verify(
        &files,
        &Options {
            whole: true,
            ..Options::default()
        },
    )
    .unwrap();
    assert_eq!(kinds(&whole), [FaultKind::Missing]);
    files.remove(2);
    assert!(
        !verify(&files, &Options::default()).unwrap().ok,
        "a file in the middle is gone"
    );
    // Killed between renaming and reopening.
    std::fs::rename(&path, dir.path().join("audit.jsonl.000000000802")).unwrap();
    trail(&path, 1);
    let lines = values(&std::fs::read(&path).unwrap());
    assert_eq!(lines[0]["seq"], 803);
}

#[test]
fn logrotate_by_renaming_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let moved = dir.path().join("audit.jsonl.1");
    let audit = Audit::open(at(&path), clock()).unwrap();
    let runtime = runtime(1);
    runtime.block_on(exchange(&audit, "r-1")).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    runtime.block_on(exchange(&audit, "r-2")).unwrap();
    audit.reopen().unwrap();
    runtime.block_on(exchange(&audit, "r-3")).unwrap();
    audit.close();
    let report = verify(&[path.clone(), moved], &Options::default()).unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.records, 8);
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("{\"time\"")
    );
}

#[test]
fn a_path_swapped_for_a_link_refuses_every_intent_until_it_is_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let audit = Audit::open(at(&path), clock()).unwrap();
    std::fs::rename(&path, dir.path().join("moved.jsonl")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
    assert!(audit.reopen().is_err());
    let runtime = runtime(1);
    assert!(runtime.block_on(exchange(&audit, "r-1")).is_err());
    assert!(!audit.healthy());
    assert!(!dir.path().join("victim").exists());
    std::fs::remove_file(&path).unwrap();
    audit.reopen().unwrap();
    runtime.block_on(exchange(&audit, "r-2")).unwrap();
    audit.close();
    let files = [dir.path().join("moved.jsonl"), path];
    let report = verify(&files, &Options::default()).unwrap();
    assert!(report.ok, "{report:?}");
}
