"""What a person waits for and only this node can say: today, what a guest wrote to its console. Called by the core."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from nubila.agent.pool import Call, Pool, Worker
from nubila.drivers import DriverError
from nubila.drivers.hypervisor.base import Hypervisor
from nubila.protocol import Answer, Question

CONSOLE_DEADLINE_S = 30.0
CONSOLE_MAX_BYTES = 1 << 20
REMEMBERED = 256


class Questions:
    """`answer` takes the question's id and what is to be said; it is called in a worker's thread."""

    def __init__(self, pool: Pool, hypervisor: Hypervisor, answer: Callable[[str, Answer], None]):
        self._pool, self._hypervisor, self._answer = pool, hypervisor, answer
        self._asked: OrderedDict[str, None] = OrderedDict()

    def ask(self, question: Question, session: int) -> None:
        """The same question may come several times."""
        if question.question_id in self._asked:
            return
        self._asked[question.question_id] = None
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        self._pool.submit(lambda worker: self._look(question, session, worker))

    def _look(self, question: Question, session: int, worker: Worker) -> None:
        worker.call = Call(question, "reading the console", CONSOLE_DEADLINE_S)
        text, error = "", None
        try:
            if question.about != "console":
                raise DriverError(f"this agent cannot say anything about {question.about!r}", again=False)
            seen = self._hypervisor.read_console(question.vm_id, min(question.max_bytes, CONSOLE_MAX_BYTES))
            text = seen.decode(errors="replace").replace("\x00", "")  # consoles hold NULs; the API takes none
        except DriverError as e:
            error = e.reason
        except Exception as e:
            error = f"internal error in the agent: {type(e).__name__}"
        worker.call = None
        self._answer(question.question_id, Answer(session=session, text=text, error=error))
