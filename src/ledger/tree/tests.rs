use proptest::prelude::*;

use super::*;

/// The definitions of RFC 9162 section 2.1, word for word.
mod rfc {
    use super::Hash;
    use aws_lc_rs::digest::{SHA256, digest};

    pub(super) fn node(left: &Hash, right: &Hash) -> Hash {
        let bytes = [&[1], left.as_slice(), right].concat();
        digest(&SHA256, &bytes).as_ref().try_into().expect("32 bytes")
    }

    /// The largest power of two smaller than n.
    fn split(n: usize) -> usize {
        n.next_power_of_two() / 2
    }

    /// MTH.
    pub(super) fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => digest(&SHA256, b"").as_ref().try_into().expect("32 bytes"),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                node(&root(left), &root(right))
            }
        }
    }

    /// PATH.
    pub(super) fn inclusion(position: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let k = split(leaves.len());
        let (left, right) = leaves.split_at(k);
        let (mut path, other) = if position < k {
            (inclusion(position, left), root(right))
        } else {
            (inclusion(position - k, right), root(left))
        };
        path.push(other);
        path
    }

    /// PROOF.
    pub(super) fn consistency(earlier: usize, leaves: &[Hash]) -> Vec<Hash> {
        subproof(earlier, leaves, true)
    }

    fn subproof(m: usize, leaves: &[Hash], is_whole: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if is_whole { Vec::new() } else { vec![root(leaves)] };
        }
        let k = split(leaves.len());
        let (left, right) = leaves.split_at(k);
        let (mut proof, other) = if m <= k {
            (subproof(m, left, is_whole), root(right))
        } else {
            (subproof(m - k, right, false), root(left))
        };
        proof.push(other);
        proof
    }
}

fn leaves(count: usize) -> Vec<Leaf> {
    (0..count as u64)
        .map(|number| {
            let mut leaf = [0; 32];
            leaf[..8].copy_from_slice(&number.to_be_bytes());
            leaf
        })
        .collect()
}

/// Builds a tree in batches, each begun from the stored tiles, as the integrity job does.
fn build(leaves: &[Leaf], batch: usize) -> (Tiles, Hash) {
    let mut tiles = Tiles::default();
    let mut root = Edge::default().root();
    let mut size = 0;
    for batch in leaves.chunks(batch) {
        let keys: BTreeSet<_> = Edge::keys(size).into_iter().collect();
        let only: Tiles = keys.iter().map(|key| (*key, tiles.0[key].clone())).collect();
        let mut edge = Edge::read(size, &only).expect("all tiles");
        assert_eq!(edge.root(), root, "what was read is what was written");
        tiles.extend(edge.append(batch));
        (size, root) = (edge.size(), edge.root());
    }
    (tiles, root)
}

fn answer(query: TreeQuery, tiles: &Tiles) -> Vec<Hash> {
    let keys = query.keys().expect("within the tree");
    let only: Tiles = keys.iter().map(|key| (*key, tiles.0[key].clone())).collect();
    query.answer(&only).expect("all tiles")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn roots_and_proofs_are_those_of_rfc_9162(
        count in prop_oneof![1usize..600, 65_500usize..65_700],
        batch in 1usize..3000,
        (position, earlier) in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let leaves = leaves(count);
        // Many small batches of many leaves would only be slow.
        let (tiles, root) = build(&leaves, batch.max(count / 100));
        prop_assert_eq!(root, rfc::root(&leaves));
        let size = count as u64;

        let position = position.index(count);
        let proof = answer(TreeQuery::Inclusion { size, position: position as u64 }, &tiles);
        prop_assert_eq!(&proof, &rfc::inclusion(position, &leaves));
        prop_assert!(includes(&root, size, &proof, position as u64, &leaves[position]));
        prop_assert!(!includes(&root, size, &proof, position as u64, &[1; 32]));
        prop_assert_eq!(tiles.leaf(position as u64), Some(leaves[position]));

        let earlier = earlier.index(count) + 1;
        let proof = answer(TreeQuery::Consistency { size, earlier: earlier as u64 }, &tiles);
        prop_assert_eq!(&proof, &rfc::consistency(earlier, &leaves));
        let earlier_root = answer(TreeQuery::Root { size: earlier as u64 }, &tiles)[0];
        prop_assert_eq!(earlier_root, rfc::root(&leaves[..earlier]));
        let hash = tlog::Hash;
        let proof = proof.into_iter().map(hash).collect();
        let checked =
            tlog::check_tree(&proof, size, hash(root), earlier as u64, hash(earlier_root));
        prop_assert!(checked.is_ok());
    }
}

#[test]
fn every_small_tree_has_the_right_root() {
    let leaves = leaves(1100);
    let mut edge = Edge::default();
    let mut complete = 0;
    for size in 0..leaves.len() {
        assert_eq!(edge.root(), rfc::root(&leaves[..size]), "{size}");
        edge.push(&leaves[size], |_, hashes| {
            assert_eq!(hashes.len(), FULL);
            complete += 1;
        });
    }
    assert_eq!(complete, 4);
}

#[test]
fn tiles_that_are_missing_or_damaged_are_named() {
    type Damage = fn(&mut Vec<u8>);
    let (tiles, root) = build(&leaves(70_000), 5000);
    let query = TreeQuery::Inclusion { size: 70_000, position: 300 };
    let damage: [(&str, Damage); 4] = [
        ("empty", Vec::clear),
        ("short", |hashes| hashes.truncate(32)),
        ("uneven", |hashes| hashes.truncate(33)),
        ("too wide", |hashes| hashes.resize(FULL + 32, 0)),
    ];
    let key = TileKey { level: 0, number: 1 };
    for (name, damage) in damage {
        let mut tiles = tiles.clone();
        damage(tiles.0.get_mut(&key).expect("the tile"));
        assert_eq!(query.answer(&tiles), Err(TreeError::Tile(key)), "{name}");
    }
    for key in Edge::keys(70_000) {
        let mut tiles = tiles.clone();
        tiles.0.remove(&key);
        assert_eq!(Edge::read(70_000, &tiles), Err(TreeError::Tile(key)));
    }
    let mut tiles = tiles;
    tiles.0.get_mut(&key).expect("the tile")[40] ^= 1;
    let proof = query.answer(&tiles).expect("an answer");
    assert!(!includes(&root, 70_000, &proof, 300, &leaves(301)[300]));
}

#[test]
fn sizes_and_positions_outside_the_tree_are_refused() {
    assert_eq!(size(-1), Err(TreeError::Size(-1)));
    assert_eq!(size(i64::MAX), Err(TreeError::Size(i64::MAX)));
    assert_eq!(size(5), Ok(5));
    for query in [
        TreeQuery::Inclusion { size: 5, position: 5 },
        TreeQuery::Inclusion { size: 0, position: 0 },
        TreeQuery::Consistency { size: 5, earlier: 6 },
        TreeQuery::Consistency { size: 5, earlier: 0 },
        TreeQuery::Root { size: u64::MAX },
        TreeQuery::Inclusion { size: u64::MAX, position: 1 },
    ] {
        assert!(query.keys().is_err(), "{query:?}");
    }
    assert!(!includes(&[0; 32], u64::MAX, &[], 0, &[0; 32]));
    assert!(!includes(&[0; 32], 1, &[], 1, &[0; 32]));
}
