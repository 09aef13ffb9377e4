"""Registration of a method that lives outside peft.

peft looks methods up by the members of a closed enum, `PeftType`, and asks those members for `.value`, so a plain
string will not do: a real member is added, then peft's own `register_peft_method` is called.
"""

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method


def add_peft_type(name: str) -> PeftType:
    """Return the `PeftType` member called `name` (upper case), adding it if peft does not have it."""
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    # The attribute first: once the name is in the member map, the enum refuses to have it set.
    setattr(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    return member


def register(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make a method known to peft; a second call for the same classes does nothing.

    Args:
        name: the method in lower case; its parameters' names begin with ``name + "_"``.
        config_cls: its configuration.
        model_cls: its tuner.

    Raises:
        ValueError: if peft (or another package) already has a different method of this name.
    """
    peft_type = add_peft_type(name.upper())
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)
    if known is None:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
    elif known is not config_cls:
        raise ValueError(
            f"peft already has a method called {name!r} ({known.__module__}.{known.__qualname__}); uninstall the "
            "package that brought it, or rename this one"
        )
