"""The values of the library: nobody changes one, and none shows a password in its repr."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from .test_architecture import SECRET_IN

ROOT = Path(__file__).resolve().parents[2]
# What may hold a password, in which class soever.
SECRET = {"password", "passwords", "content", "still", "between", "text", "keys", "verifier"}
# Not values: what is found while a search or a rotation goes on.
COLLECTED = {"_Begun"}
PUBLIC = {("Word", "text"), ("Reply", "text"), ("_Token", "text"), ("Holder", "text"), ("_PasswordChange", "passwords")}


def values():
    found = []
    for file in sorted(ROOT.glob("_utils/_ispmail_*.py")):
        module = importlib.import_module(file.stem)
        for each in vars(module).values():
            if isinstance(each, type) and dataclasses.is_dataclass(each) and each.__module__ == file.stem:
                found.append(pytest.param(each, id=f"{file.stem}.{each.__name__}"))
    return found


@pytest.mark.parametrize("kind", values())
def test_a_value_is_not_changed(kind):
    """One that is changed far from where it was made is a riddle."""
    if kind.__name__ in COLLECTED:
        return
    one = object.__new__(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(kind)[0].name, None)


@pytest.mark.parametrize("kind", values())
def test_a_password_is_not_in_the_repr(kind):
    """A repr gets into logs and tracebacks."""
    shown = {field.name for field in dataclasses.fields(kind) if field.repr}
    assert not {name for name in shown & SECRET if (kind.__name__, name) not in PUBLIC}


# Tuples may hold more: what a program has printed, main.cf, and the values of a table.
SECRET_IN_TUPLES = SECRET | {"values", "texts", "stdout", "stderr"}


def tuples():
    found = []
    for file in sorted(ROOT.glob("_utils/_ispmail_*.py")):
        module = importlib.import_module(file.stem)
        for each in vars(module).values():
            if isinstance(each, type) and hasattr(each, "_fields") and each.__module__ == file.stem:
                found.append(pytest.param(each, id=f"{file.stem}.{each.__name__}"))
    return found


@pytest.mark.parametrize("kind", tuples())
def test_a_password_is_not_in_the_repr_of_a_tuple(kind):
    shown = repr(tuple.__new__(kind, [f"VALUE-OF-{name}" for name in kind._fields]))
    hidden = {name for name in kind._fields if f"VALUE-OF-{name}'" not in shown}
    public = {name for owner, name in PUBLIC if owner == kind.__name__}
    assert hidden == (set(kind._fields) & SECRET_IN_TUPLES - public) | (
        SECRET_IN.get(f"{kind.__module__}.{kind.__name__}", set())
    )
