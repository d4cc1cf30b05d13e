"""A replica in this process: the same engine as a rank's, without Ray."""

from __future__ import annotations

import pytest

from tests.actors.fakes import prompt
from tirazh.actors.local_replica import local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import RequestError
from tirazh.model.requests import Completion, Embedding, EmbedRequest, EngineJob, LabelScores, ScoreRequest


def test_requests_of_every_job_and_kind_are_answered_in_their_order() -> None:
    jobs = (EngineJob(labels=((1,), (2,))), EngineJob(labels=((1,), (2,), (3,))))
    with local_replica(ReplicaConfig(model="none", engine="echo", jobs=jobs)) as replica:
        assert replica.add_job(EngineJob(labels=((4,),))) == 2
        assert replica.add_job(jobs[1]) == 1
        scored = [ScoreRequest(prompt_token_ids=(5,), job=job) for job in (2, 0, 1)]
        completion, embedding, *scores = replica.run([prompt(7), EmbedRequest(prompt_token_ids=(7,)), *scored])
    assert isinstance(completion, Completion)
    assert isinstance(embedding, Embedding)
    assert [len(each.logprobs) for each in scores if isinstance(each, LabelScores)] == [1, 2, 3]


def test_a_replica_needs_a_job() -> None:
    with pytest.raises(RequestError, match="a replica's jobs must hold at least one job"):
        ReplicaConfig(model="none", jobs=())
