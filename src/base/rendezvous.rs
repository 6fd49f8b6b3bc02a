//! Rendezvous hashing: which backend a name prefers. Every proxy finds the same one by itself, and
//! a backend that is removed changes only its own share.

use super::digest::Digest;

/// How strongly a name prefers a backend.
pub fn affinity(name: &str, backend: &str) -> Digest {
    Digest::of([name, backend].join("\n").as_bytes())
}

/// How far a backend is from a name. Of many names each backend is nearest to a share by its weight, and
/// a weight that changes moves no more than that.
///
/// That is so when the distance is -log u / weight, and u is a number between 0 and 1 by chance; here in
/// whole numbers, which are the same on every machine.
pub fn distance(name: &str, backend: &str, weight: u32) -> u64 {
    minus_log2(affinity(name, backend).leading()) / u64::from(weight.max(1))
}

/// -log₂ of `chance` / 2⁶⁴, in units of 2⁻³².
fn minus_log2(chance: u64) -> u64 {
    let chance = chance.max(1);
    let zeros = chance.leading_zeros();
    // From 1 to 2 in units of 2⁻³¹. Squaring it doubles its logarithm, of which the next binary digit is
    // whether that makes 2.
    let mut mantissa = (chance << zeros) >> 32;
    let mut digits = 0;
    for _ in 0..32 {
        mantissa = (mantissa * mantissa) >> 31;
        let digit = mantissa >> 32;
        mantissa >>= digit;
        digits = digits << 1 | digit;
    }
    ((u64::from(zeros) + 1) << 32) - digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest<'b>(name: &str, backends: &[(&'b str, u32)]) -> &'b str {
        let nearest =
            backends.iter().min_by_key(|(backend, weight)| distance(name, backend, *weight));
        nearest.unwrap().0
    }

    fn names() -> Vec<String> {
        (0..4000).map(|index| format!("team\nconversation-{index}")).collect()
    }

    #[test]
    fn the_logarithm_is_right() {
        let unit = (1_u64 << 32) as f64;
        for chance in [1, 2, 3, 1000, 1 << 32, u64::MAX / 3, u64::MAX / 2, 1 << 63, u64::MAX] {
            let expected = 64.0 - (chance as f64).log2();
            let found = minus_log2(chance) as f64 / unit;
            assert!((found - expected).abs() < 1e-8, "{chance}: {found} {expected}");
        }
        assert!(minus_log2(u64::MAX) > 0);
        assert_eq!(minus_log2(0), 64 << 32);
    }

    #[test]
    fn every_proxy_and_version_finds_the_same_backend() {
        let backends = [("eastus", 3), ("sweden", 1), ("france", 2)];
        let found = ["a", "b", "c", "d", "e", "f"].map(|name| nearest(name, &backends));
        assert_eq!(found, ["eastus", "sweden", "eastus", "france", "france", "sweden"]);
    }

    #[test]
    fn shares_are_by_weight() {
        let names = names();
        for weights in [[1, 1, 1], [3, 1, 0], [1000, 1, 999], [1, 2, 5]] {
            let backends: Vec<_> = ["eastus", "sweden", "france"]
                .into_iter()
                .zip(weights)
                .filter(|(_, weight)| *weight > 0)
                .collect();
            let total: u32 = weights.iter().sum();
            for (backend, weight) in &backends {
                let count = names.iter().filter(|name| nearest(name, &backends) == *backend);
                let share = count.count() as f64 / 4000.0;
                let expected = f64::from(*weight) / f64::from(total);
                assert!((share - expected).abs() < 0.03, "{weights:?} {backend}: {share}");
            }
        }
    }

    #[test]
    fn what_changes_moves_its_own_share_alone() {
        let before = [("eastus", 3), ("sweden", 1), ("france", 2)];
        for name in names() {
            let had = nearest(&name, &before);
            let without = nearest(&name, &[("eastus", 3), ("sweden", 1)]);
            assert!(had == without || had == "france", "{name}");
            let heavier = nearest(&name, &[("eastus", 3), ("sweden", 4), ("france", 2)]);
            assert!(had == heavier || heavier == "sweden", "{name}");
        }
    }
}
