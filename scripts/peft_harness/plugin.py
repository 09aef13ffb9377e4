"""The pytest plugin that puts our methods into peft's tests, and what surrounds those tests offline.

At collection the rows of every ``parametrize`` that runs over peft's methods are replaced by ours, and what then still
tests peft's own methods is deselected. At run time a method that refuses to merge must do so in every test that merges.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from peft_harness.cases import MethodCases
from peft_harness.report import Outcome
from peft_harness.rules import (
    FOR_ALL,
    MERGING,
    SUITES,
    WITHOUT,
    learning_rate,
    models_of_module,
    rows_at_test,
    rows_of_module,
    why_not,
)

_METHOD = pytest.StashKey[MethodCases]()
_NEEDED = {"datasets": "load_dataset", "diffusers": "StableDiffusionPipeline"}


def load_helpers(root: Path) -> None:
    """Import the modules that peft's tests share, so that they stay offline and leave no skip by a method's name.

    Args:
        root: the folder of peft's ``tests`` package.
    """
    sys.path.insert(0, str(root))
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    for name in missing:  # imported at the top, used by tests of other suites only
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], _NEEDED[name], type(_NEEDED[name], (), {}))
    try:
        _replace(importlib.import_module("tests.testing_utils"), "hub_online_once", _offline)
        _let_pass(importlib.import_module("tests.testing_common"))
    finally:
        for name in missing:
            del sys.modules[name]


@contextmanager
def _offline(model_id: str) -> Iterator[None]:
    """In place of peft's hub_online_once, which allows the network at the first use of an id."""
    yield


def _let_pass(module: ModuleType) -> None:
    name = WITHOUT.get(module.__name__.rpartition(".")[2])
    if name is not None:
        _replace(module, name, lambda *arguments: None)


def _replace(module: ModuleType, name: str, value: Any) -> None:
    if not hasattr(module, name):
        raise UserError(f"{module.__name__} of this peft has no {name}: peft_harness/ does not fit this version")
    setattr(module, name, value)


class Injection:
    """The plugin.

    Args:
        methods: whose cases to run.
        cache: hub cache with the stand-ins.

    Attributes:
        outcomes: one for each test that ran, by its id.
        left_out: how many tests of peft's own methods each test function had left.
        unrepresented: models of the hub that have no stand-in; nothing ran on them.
    """

    def __init__(self, methods: Sequence[MethodCases], cache: Path) -> None:
        self.methods, self.cache = methods, cache
        self.by_class = {method.config_class: method for method in methods}
        self.rows: dict[ModuleType, dict[int, list[Any]]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.left_out: Counter[str] = Counter()
        self.unrepresented: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Exchange the rows in a test's marks before pytest reads them."""
        module = metafunc.module
        assert module is not None  # of a function of these files
        if module not in self.rows:
            self._prepare(module)
        test = metafunc.function.__name__
        if test in FOR_ALL:
            metafunc.fixturenames.append("config_class")
            metafunc.parametrize("config_class", list(self.by_class))
        at_test = rows_at_test(test, self.methods)
        marks = metafunc.definition.own_markers
        for index, mark in enumerate(marks):
            if mark.name != "parametrize":
                continue
            names, rows, *rest = mark.args
            ours = self.rows[module].get(id(rows), at_test.get(str(names)))
            if ours is not None:
                marks[index] = pytest.mark.parametrize(names, ours, *rest, **mark.kwargs).mark

    def _prepare(self, module: ModuleType) -> None:
        _let_pass(module)
        self.rows[module] = rows_of_module(module, self.methods)
        names, lacking = models_of_module(module)
        if names:
            self.rows[module][id(names)] = [name for name in names if name not in lacking]
            self.unrepresented += lacking

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests of our methods."""
        kept, others = [], []
        for item in items:
            method = self._method_of(item)
            if method is None:
                others.append(item)
                self.left_out[_test_of(item)] += 1
            else:
                item.stash[_METHOD] = method
                item.user_properties.append(("method", method.name))
                kept.append(item)
        items[:] = kept
        config.hook.pytest_deselected(items=others)

    def _method_of(self, item: pytest.Item) -> MethodCases | None:
        for value in _arguments_of(item).values():
            found = self.by_class.get(value if isinstance(value, type) else type(value))
            if found is not None:
                return found
        return None

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what cannot hold, with its reason."""
        reason = why_not(_test_of(item), _arguments_of(item))
        if reason is not None:
            pytest.skip(reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Iterator[None]:
        """Run a test; where a method must refuse to merge, only the refusal passes."""
        test, method = _test_of(pyfuncitem), pyfuncitem.stash[_METHOD]
        refuses = test in MERGING and not method.merges
        rate = learning_rate(test, _arguments_of(pyfuncitem))
        with pytest.MonkeyPatch.context() as patch, finite_training(rate):
            for name, value in self._replaced_for(test, method).items():
                patch.setattr(pyfuncitem.module, name, value)
            try:
                result = yield
            except NotImplementedError as error:
                if not refuses:
                    raise
                check_refusal(error)
                pyfuncitem.user_properties.append(("refused", True))
                return True  # pyright: ignore[reportReturnType]
        if refuses:
            pytest.fail(f"{method.title} must refuse to merge, and did not")
        return result

    def _replaced_for(self, test: str, method: MethodCases) -> dict[str, Any]:
        """Names of a test's module that mean something else while the test runs."""
        if test in FOR_ALL:  # what it loops over
            return {"PeftType": [method.config_class().peft_type]}
        if test == "test_from_pretrained_cache_dir":
            return {"tempfile": SimpleNamespace(TemporaryDirectory=self._filled_folder)}
        return {}

    @contextmanager
    def _filled_folder(self) -> Iterator[str]:
        """An empty folder would be filled from the hub: this one holds what is wanted already."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(self.cache, folder, dirs_exist_ok=True)
            yield folder

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended: failed in any phase, else skipped, else refused or passed."""
        properties = dict(report.user_properties)
        if report.failed or report.skipped or report.when == "call":
            if report.nodeid in self.outcomes and not report.failed:
                return
            status = "refused" if "refused" in properties and report.passed else report.outcome
            reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
            suite = next(name for name, file in SUITES.items() if f"{file}.py" in report.nodeid)
            self.outcomes[report.nodeid] = Outcome(str(properties["method"]), suite, report.nodeid, status, reason)


@contextmanager
def finite_training(rate: float | None) -> Iterator[None]:
    """Within it every optimizer's step must leave finite weights, and has this learning rate, unless it is None.

    peft's tests ask whether weights or outputs changed. NaN differs from everything, so it would do for a change.
    """
    from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    def before(optimizer: Optimizer, *unused: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate

    def after(optimizer: Optimizer, *unused: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        assert all(bool(weight.isfinite().all()) for weight in weights), "training got to a weight that is not finite"

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_refusal(error: NotImplementedError) -> None:
    """Fail unless this is the refusal to merge, came from a call that merges, and left every layer as it was."""
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

    from llava_teamlora.tuners.low_rank.layer import MERGE_REFUSAL

    assert str(error) == MERGE_REFUSAL, f"not the refusal to merge: {error}"
    tuner: Any = None
    trace = error.__traceback__
    while trace is not None and tuner is None:
        if trace.tb_frame.f_code.co_name in ("merge_adapter", "merge_and_unload"):
            tuner = trace.tb_frame.f_locals.get("self")
        trace = trace.tb_next
    assert isinstance(tuner, BaseTuner), "the refusal came from something else than merge_adapter or merge_and_unload"
    layers = [module for module in tuner.modules() if isinstance(module, BaseTunerLayer)]
    assert layers and not any(layer.merged for layer in layers), "merged, or unloaded, in spite of the refusal"


def _test_of(item: pytest.Item) -> str:
    return getattr(item, "originalname", None) or item.name


def _arguments_of(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec is not None else {}
