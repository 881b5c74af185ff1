//! Learning rate and temperature as functions of the step.

use crate::config::{Course, ScheduleConfig};

/// Knows how many steps an epoch and a run have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub steps_per_epoch: usize,
    pub epochs: usize,
}

impl Clock {
    /// Updates of the whole run.
    pub(crate) fn total(self) -> usize {
        self.steps_per_epoch * self.epochs
    }
}

/// Learning rate of update `step`, counted from 0, as a share of the largest.
pub(crate) fn rate_share(config: &ScheduleConfig, clock: Clock, step: usize) -> f64 {
    let warmup = config.warmup_epochs * clock.steps_per_epoch as f64;
    let at = step as f64;
    if at < warmup {
        // The first update already moves: (0 + 1) / warmup.
        return ((at + 1.0) / warmup).min(1.0);
    }
    match config.course {
        Course::Cosine => {
            let rest = (clock.total() as f64 - warmup).max(1.0);
            let cosine = 0.5 * (1.0 + (std::f64::consts::PI * (at - warmup) / rest).cos());
            config.last_share + (1.0 - config.last_share) * cosine
        }
        Course::Step => {
            let cuts = (at / (config.step_epochs * clock.steps_per_epoch as f64)).floor();
            config.gamma.powf(cuts)
        }
    }
}

/// Temperature at update `step`, falling linearly to `last`, the net's own.
pub(crate) fn temperature(config: &ScheduleConfig, clock: Clock, step: usize, last: f32) -> f32 {
    let until = config.temperature_epochs * clock.steps_per_epoch as f64;
    if step as f64 >= until {
        return last;
    }
    let share = step as f64 / until;
    (config.temperature_start + (f64::from(last) - config.temperature_start) * share) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { steps_per_epoch: 10, epochs: 10 };

    #[test]
    fn cosine_rises_in_warm_up_and_falls_to_its_last_share() {
        let config = ScheduleConfig { warmup_epochs: 2.0, last_share: 0.1, ..Default::default() };
        let share = |step| rate_share(&config, CLOCK, step);
        assert_eq!(share(0), 1.0 / 20.0);
        assert_eq!(share(19), 1.0);
        assert_eq!(share(20), 1.0);
        assert!((share(60) - 0.55).abs() < 1e-12);
        assert!(share(99) > 0.1 && share(99) < 0.101);
        assert!((20..99).all(|s| share(s + 1) < share(s)));
    }

    #[test]
    fn step_cuts_at_its_epochs() {
        let config = ScheduleConfig {
            course: Course::Step,
            warmup_epochs: 0.0,
            step_epochs: 3.0,
            gamma: 0.5,
            ..Default::default()
        };
        let shares: Vec<f64> = [0, 29, 30, 59, 60].map(|s| rate_share(&config, CLOCK, s)).into();
        assert_eq!(shares, [1.0, 1.0, 0.5, 0.5, 0.25]);
    }

    #[test]
    fn the_temperature_ends_at_the_nets_own() {
        let config =
            ScheduleConfig { temperature_start: 30.0, temperature_epochs: 5.0, ..Default::default() };
        let at = |step| temperature(&config, CLOCK, step, 1.0);
        assert_eq!((at(0), at(25), at(50), at(99)), (30.0, 15.5, 1.0, 1.0));
        let constant = ScheduleConfig { temperature_epochs: 0.0, ..config };
        assert_eq!(temperature(&constant, CLOCK, 0, 2.0), 2.0);
    }
}
