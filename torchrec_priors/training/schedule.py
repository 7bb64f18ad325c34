"""The schedule of a run: when it evaluates, which evaluation is the best, and when it ends."""

from torchrec_priors.settings.training import TrainingConfig
from torchrec_priors.training.checkpoint.keys import Progress


class Schedule:
    """Says what is due after a step, from the progress of the run. Every rank says the same."""

    def __init__(self, settings: TrainingConfig, progress: Progress) -> None:
        """
        Args:
            settings: the section `training` of the configuration.
            progress: the progress of the run, which the training loop counts.
        """
        self._settings = settings
        self._progress = progress

    @property
    def ended(self) -> bool:
        """Whether the last step was taken, or patience has run out."""
        return self._progress.step >= self._settings.steps or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Whether `training.patience` evaluations in a row brought no better result."""
        patience = self._settings.patience
        return patience > 0 and self._progress.without_gain >= patience

    @property
    def evaluation_is_due(self) -> bool:
        """Whether an evaluation follows the last step."""
        if self._settings.fit_all:
            return False
        step = self._progress.step
        return step % self._settings.evaluate_every == 0 or step == self._settings.steps

    @property
    def evaluation_is_missing(self) -> bool:
        """Whether the run was stopped after a step, before the evaluation that follows."""
        progress = self._progress
        every = self._settings.evaluate_every
        done = -(-progress.best_step // every) + progress.without_gain
        return self.evaluation_is_due and done < -(-progress.step // every)

    def steps_to_evaluation(self) -> int:
        """Returns the number of steps up to the next evaluation, or to the end."""
        settings = self._settings
        step = self._progress.step
        every = settings.steps if settings.fit_all else settings.evaluate_every
        next_evaluation = (step // every + 1) * every
        return min(settings.steps, next_evaluation) - step

    def note_evaluation(self, result: float) -> bool:
        """Notes the result of an evaluation after the last step; larger is better.

        Returns:
            Whether it is the best so far.
        """
        progress = self._progress
        better = result > progress.best
        if better:
            progress.best = result
            progress.best_step = progress.step
            progress.without_gain = 0
        else:
            progress.without_gain += 1
        return better
