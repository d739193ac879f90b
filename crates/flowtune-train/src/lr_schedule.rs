//! The learning rate over a run: transformers' `get_cosine_schedule_with_warmup`,
//! `get_linear_schedule_with_warmup` and `get_constant_schedule_with_warmup`, with a floor as in
//! `get_cosine_with_min_lr_schedule_with_warmup`.

use std::f64::consts::PI;

use crate::recipe::{LrScheduleRecipe, LrScheduleType, Recipe};

/// Learning rate as a function of the step alone, so that a resume needs no state.
#[derive(Debug, Clone, PartialEq)]
pub struct LrSchedule {
    base: f64,
    total_steps: u64,
    options: LrScheduleRecipe,
}

impl LrSchedule {
    /// Schedule over `total_steps` optimizer steps that reaches `base` after warm-up.
    pub fn new(base: f64, total_steps: u64, options: LrScheduleRecipe) -> Self {
        Self { base, total_steps, options }
    }

    /// The schedule that a recipe asks for.
    pub fn of(recipe: &Recipe) -> Self {
        Self::new(recipe.optimizer.lr, recipe.train.steps, recipe.lr_schedule.clone())
    }

    /// Learning rate of the step with this `index`, counted from 0: with warm-up the first step has rate 0, as in
    /// transformers.
    pub fn lr(&self, index: u64) -> f64 {
        self.base * self.factor(index)
    }

    fn factor(&self, index: u64) -> f64 {
        let warmup = self.options.warmup_steps;
        if index < warmup {
            return index as f64 / warmup.max(1) as f64;
        }
        let after = self.total_steps.saturating_sub(warmup).max(1) as f64;
        let progress = ((index - warmup) as f64 / after).min(1.0);
        let course = match self.options.r#type {
            LrScheduleType::Constant => return 1.0,
            LrScheduleType::Linear => 1.0 - progress,
            LrScheduleType::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        };
        course * (1.0 - self.options.min_lr_ratio) + self.options.min_lr_ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(r#type: LrScheduleType, warmup_steps: u64, min_lr_ratio: f64) -> LrSchedule {
        LrSchedule::new(1.0, 10, LrScheduleRecipe { r#type, warmup_steps, min_lr_ratio })
    }

    fn rates(schedule: &LrSchedule) -> Vec<f64> {
        (0..10).map(|i| (schedule.lr(i) * 1e6).round() / 1e6).collect()
    }

    /// `transformers.get_cosine_schedule_with_warmup(opt, 2, 10)`, ten steps of `get_last_lr()`.
    #[test]
    fn cosine_is_that_of_transformers() {
        let expected = [0.0, 0.5, 1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806];
        assert_eq!(rates(&schedule(LrScheduleType::Cosine, 2, 0.0)), expected);
    }

    /// `transformers.get_linear_schedule_with_warmup(opt, 2, 10)`.
    #[test]
    fn linear_is_that_of_transformers() {
        let expected = [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125];
        assert_eq!(rates(&schedule(LrScheduleType::Linear, 2, 0.0)), expected);
    }

    #[test]
    fn constant_stays_after_warm_up() {
        let constant = schedule(LrScheduleType::Constant, 4, 0.3);
        assert_eq!(rates(&constant), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn the_floor_is_where_the_schedule_ends() {
        for kind in [LrScheduleType::Cosine, LrScheduleType::Linear] {
            let schedule = schedule(kind, 0, 0.1);
            assert_eq!(schedule.lr(0), 1.0);
            assert!((schedule.lr(5) - 0.55).abs() < 1e-12);
            assert!((schedule.lr(10) - 0.1).abs() < 1e-12);
            assert!((schedule.lr(99) - 0.1).abs() < 1e-12);
        }
    }
}
