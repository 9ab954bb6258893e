"""A rank of the learner that begins anew with other settings: its process need not import torch and verl again."""

from verl.single_controller.base.decorator import Dispatch, register

from learner.verl.worker import LearnerWorker


class RenewedWorker(LearnerWorker):
    """A rank that can be made again in its own process."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def renew(self, **arguments):
        """As if it had just been made with these arguments."""
        self.__init__(**arguments)
