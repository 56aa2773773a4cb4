//! What the dead left, where there is much of it.

use super::*;

/// However many notes nobody here can revoke, they do not hide those that somebody can.
#[tokio::test]
async fn what_nobody_knows_hides_nothing_and_every_page_is_bounded() {
    for place in places() {
        let dead = Arc::new(place.open().await);
        dead.beat().await.unwrap();
        let mut writing = tokio::task::JoinSet::new();
        for number in 0..2300 {
            let dead = Arc::clone(&dead);
            writing.spawn(async move {
                let credential = if number % 1000 == 0 { "crm" } else { "gone" };
                let note = note(&format!("l-{number:04}"), credential);
                dead.put(&note).await.unwrap();
            });
        }
        writing.join_all().await;
        let next = place.open().await;
        next.beat().await.unwrap();
        dead.leave().await.unwrap();
        let known = names(&["crm"]);
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let left = next.adopt(&known, after.as_ref()).await.unwrap();
            pages.push(left.notes.len());
            after = left.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, [1, 1, 1]);
        // Those of a credential that is there again are taken over a page at a time.
        let gone = names(&["gone"]);
        let first = next.adopt(&gone, None).await.unwrap();
        assert_eq!(first.notes.len(), 1000);
        assert_eq!(all_left(&next, &gone).await.len(), 2297 - 1000);
    }
}
