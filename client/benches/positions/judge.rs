//! How the service puts together what it computed, and how right it is.

use crate::{COLUMNS, Features, TIMES};

/// Of the features those that an attack uses: of a span, times only, or positions of one granule
/// too.
pub(crate) fn chosen(features: &Features, model: usize) -> [f64; TIMES + 3] {
    let (features, column) = (&features[model / COLUMNS], model % COLUMNS);
    let mut chosen = [0.0; TIMES + 3];
    chosen[TIMES + 2] = 1.0;
    for (to, from) in chosen.iter_mut().zip(&features[..TIMES]) {
        *to = f64::from(*from);
    }
    if let Some(granule) = column.checked_sub(1) {
        for it in 0..2 {
            chosen[TIMES + it] = f64::from(features[TIMES + 2 * granule + it]);
        }
    }
    chosen
}

/// A logistic regression by Newton's method.
pub(crate) struct Regression(pub(crate) [f64; TIMES + 3]);

impl Regression {
    pub(crate) fn fitted(rows: &[([f64; TIMES + 3], bool)]) -> Self {
        const N: usize = TIMES + 3;
        let mut scale = [1e-9; N];
        for (row, _) in rows {
            (0..N).for_each(|it| scale[it] += row[it].powi(2) / rows.len() as f64);
        }
        let scale = scale.map(f64::sqrt);
        let mut weights = [0.0; N];
        for _ in 0..25 {
            let mut matrix = [[0.0; N + 1]; N];
            for (at, row) in matrix.iter_mut().enumerate() {
                row[at] = 1.0;
                row[N] = -weights[at];
            }
            for (row, is_true) in rows {
                let row: [f64; N] = std::array::from_fn(|it| row[it] / scale[it]);
                let sum: f64 = (0..N).map(|it| weights[it] * row[it]).sum();
                let likely = 1.0 / (1.0 + (-sum).exp());
                let miss = f64::from(u8::from(*is_true)) - likely;
                for i in 0..N {
                    for j in 0..N {
                        matrix[i][j] += likely * (1.0 - likely) * row[i] * row[j];
                    }
                    matrix[i][N] += miss * row[i];
                }
            }
            for pivot in 0..N {
                let by = matrix[pivot];
                for row in (0..N).filter(|it| *it != pivot) {
                    let factor = matrix[row][pivot] / by[pivot];
                    (pivot..=N).for_each(|it| matrix[row][it] -= factor * by[it]);
                }
            }
            for it in 0..N {
                weights[it] += (matrix[it][N] / matrix[it][it]).clamp(-2.0, 2.0);
            }
        }
        Self(std::array::from_fn(|it| weights[it] / scale[it]))
    }

    pub(crate) fn score(&self, row: &[f64; TIMES + 3]) -> f64 {
        self.0.iter().zip(row).map(|(weight, it)| weight * it).sum()
    }
}

/// What the service finds, and how often its first guess is right.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) pairs: Vec<(f64, bool)>,
    pub(crate) true_pairs: u32,
    pub(crate) targets: u32,
    pub(crate) first: u32,
}

impl Judged {
    /// The scores of one target. The lowest are nobody's guess.
    pub(crate) fn of(scores: Vec<(f64, bool)>) -> Self {
        let first = scores.iter().max_by(|one, other| one.0.total_cmp(&other.0));
        Self {
            first: u32::from(first.is_some_and(|it| it.1)),
            true_pairs: scores.iter().map(|it| u32::from(it.1)).sum(),
            targets: 1,
            pairs: scores.into_iter().filter(|it| it.0 > -5.0).collect(),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.pairs.extend(other.pairs);
        self.true_pairs += other.true_pairs;
        self.targets += other.targets;
        self.first += other.first;
    }

    pub(crate) fn found(mut self) -> (f64, f64) {
        self.pairs
            .sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
        let (mut right, mut found) = (0, 0);
        for (named, pair) in self.pairs.iter().enumerate() {
            right += u32::from(pair.1);
            if f64::from(right) >= 0.9 * (named + 1) as f64 {
                found = right;
            }
        }
        let share = |part: u32, of: u32| 100.0 * f64::from(part) / f64::from(of.max(1));
        (
            share(found, self.true_pairs),
            share(self.first, self.targets),
        )
    }
}
