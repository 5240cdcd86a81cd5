//! Random draws by law.

use rand::{Rng, RngExt};

/// How long sessions are, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lengths {
    /// None is shorter than `least`.
    Pareto {
        least: f64,
        shape: f64,
    },
    Exponential {
        mean: f64,
    },
    /// The logarithm is normal, with mean `mu` and deviation `sigma`.
    Lognormal {
        mu: f64,
        sigma: f64,
    },
    Fixed {
        seconds: f64,
    },
}

impl Lengths {
    pub(super) fn draw(self, rng: &mut impl Rng) -> f64 {
        match self {
            Self::Pareto { least, shape } => least * uniform(rng).powf(-1.0 / shape),
            Self::Exponential { mean } => exponential(rng, mean),
            Self::Lognormal { mu, sigma } => (mu + sigma * normal(rng)).exp(),
            Self::Fixed { seconds } => seconds,
        }
    }
}

/// Exponential with that mean.
pub(super) fn exponential(rng: &mut impl Rng, mean: f64) -> f64 {
    -mean * uniform(rng).ln()
}

/// From above 0 to 1.
fn uniform(rng: &mut impl Rng) -> f64 {
    1.0 - rng.random::<f64>()
}

/// Normal with mean 0 and deviation 1 (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    (-2.0 * uniform(rng).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn draws_have_the_mean_of_their_law() {
        let mut rng = SmallRng::seed_from_u64(1);
        let laws = [
            (Lengths::Pareto { least: 10.0, shape: 3.0 }, 15.0),
            (Lengths::Exponential { mean: 20.0 }, 20.0),
            (Lengths::Lognormal { mu: 0.0, sigma: 1.0 }, 0.5f64.exp()),
            (Lengths::Fixed { seconds: 7.0 }, 7.0),
        ];
        for (law, mean) in laws {
            let draws: Vec<f64> = (0..200_000).map(|_| law.draw(&mut rng)).collect();
            let drawn = draws.iter().sum::<f64>() / draws.len() as f64;
            assert!((drawn / mean - 1.0).abs() < 0.02, "{law:?}: {drawn}");
            assert!(draws.iter().all(|draw| *draw > 0.0 && draw.is_finite()));
        }
    }
}
