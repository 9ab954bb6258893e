"""A server that the viewer's tests ask, and groups of episodes that it shows."""

import time

from starlette.testclient import TestClient
from trajectories import CODE, trajectory

from viewer.app import Viewer, application
from viewer.runs import find_runs

PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc\xf8\xff\xff?\0\5\xfe\2\xfe\r\xefF\xb8"
    b"\0\0\0\0IEND\xaeB`\x82"
)


def images_of(trajectory):
    return dict.fromkeys(trajectory.images, PIXEL)


def group(group, calls, **fields):
    """A group with an episode for each number of calls; those without a call are wrong."""
    return [
        trajectory([CODE] * count, group, number, reward=float(bool(count)), correct=bool(count), **fields)
        for number, count in enumerate(calls)
    ]


class Shown:
    """A server of runs, spoken to without a network; `get` asserts that the answer is 200."""

    def __init__(self, *paths, cache, host="127.0.0.1", token=None):
        self.viewer = Viewer(lambda: find_runs([str(path) for path in paths]), cache)
        self.client = TestClient(application(self.viewer, host, token), base_url=f"http://{host}:8642", follow_redirects=False)
        self.viewer.indexer.start()

    def get(self, path, **parameters):
        answer = self.client.get(f"/api/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path, **parameters):
        """The status and the error of an answer that is none."""
        answer = self.client.get(f"/api/{path}", params=parameters)
        return answer.status_code, answer.json()["error"]

    def settled(self, run="demo"):
        """How much is indexed, once that is all that there is."""
        index = self.viewer.runs[run].index
        until = time.monotonic() + 20
        index.states()
        while not (index.states() and all(state.done for state in index.states())) and time.monotonic() < until:
            time.sleep(0.01)
        return index.indexed()
