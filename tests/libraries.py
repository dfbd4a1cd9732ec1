"""How the reference libraries make small models and save them: they are imported when one is built."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blox.zoo.comparing.parity import import_reference


@dataclass(frozen=True)
class Reference:
    """A model of a reference library.

    Attributes:
      kind: a class of transformers or torchvision, or a name of timm's.
      arguments: of the model, or of its config.
      fields: of our config, that the files do not say.
      variant: whose config ours has where there is no config.json.
    """

    kind: str
    arguments: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ''
    layout = ''

    def but(self, **arguments: Any) -> Any:
        """Return it with other arguments."""
        return dataclasses.replace(self, arguments={**self.arguments, **arguments})

    def of(self, kind: str, **arguments: Any) -> Any:
        """Return it of another kind, with other arguments."""
        return dataclasses.replace(self.but(**arguments), kind=kind)

    def saying(self, **fields: Any) -> Any:
        """Return it with fields of our config that its files do not say."""
        return dataclasses.replace(self, fields={**self.fields, **fields})

    def build(self) -> Any:
        """Make it, with the library's own initial values."""
        raise NotImplementedError

    def save(self, model: Any, folder: Path) -> Path:
        """Write `model` as its library does, and return what there is to open."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transformers(Reference):
    """A model of transformers, of a config of the class `config`."""

    config: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: str = 'hf'

    def build(self) -> Any:
        library = import_reference('transformers')
        config = getattr(library, self.config)(**self.arguments)
        return getattr(library, self.kind)(config, **self.options)

    def save(self, model: Any, folder: Path) -> Path:
        model.save_pretrained(folder)
        return folder


@dataclass(frozen=True)
class Timm(Reference):
    """A model of timm."""

    layout = 'timm'

    def build(self) -> Any:
        return import_reference('timm').create_model(self.kind, **self.arguments)

    def save(self, model: Any, folder: Path) -> Path:
        import_reference('timm').models.save_for_hf(
            model, folder, model_args=self.arguments, safe_serialization=True
        )
        return folder


@dataclass(frozen=True)
class Torchvision(Reference):
    """A ResNet of torchvision, saved as a bare state dict, by the names that timm has too."""

    layout = 'timm'

    def build(self) -> Any:
        resnet = import_reference('torchvision').models.resnet
        return resnet.ResNet(getattr(resnet, self.kind), **self.arguments)

    def save(self, model: Any, folder: Path) -> Path:
        import_reference('torch').save(model.state_dict(), folder / 'model.pth')
        return folder / 'model.pth'


@dataclass(frozen=True)
class TorchvisionViT(Torchvision):
    """A ViT of torchvision, whose names are its own."""

    layout = 'torchvision'

    def build(self) -> Any:
        return import_reference('torchvision').models.VisionTransformer(**self.arguments)


@dataclass(frozen=True)
class OpenCLIP(Reference):
    """A model of open_clip, made with `arguments`, of its class `kind`."""

    layout: str = 'open_clip'

    def build(self) -> Any:
        import_reference('timm')
        library = import_reference('open_clip')
        return getattr(library, self.kind)(**self.arguments, output_dict=True)

    def save(self, model: Any, folder: Path) -> Path:
        said = {**self.arguments, 'custom_text': self.kind == 'CustomTextCLIP'}
        fields = {'model_cfg': said, 'preprocess_cfg': {}}
        (folder / 'open_clip_config.json').write_text(json.dumps(fields), 'utf-8')
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        import_reference('safetensors.torch').save_file(
            tensors, folder / 'open_clip_model.safetensors'
        )
        return folder


def open_clip(layout: str = 'open_clip', kind: str = 'CLIP', **arguments: Any) -> OpenCLIP:
    """Describe a model of open_clip."""
    return OpenCLIP(kind, arguments, layout=layout)


def transformers(
    kind: str, config: str, options: Mapping[str, Any] | None = None, **fields: Any
) -> Transformers:
    """Describe a model of transformers; `options` are the model's own, `fields` its config's."""
    return Transformers(kind, fields, config=config, options=options or {})


def timm(name: str, **arguments: Any) -> Timm:
    """Describe a model of timm."""
    return Timm(name, arguments)


def torchvision(block: str, variant: str, depths: tuple[int, ...], **arguments: Any) -> Torchvision:
    """Describe a ResNet of torchvision that has the sizes of `variant` but these `depths`."""
    arguments = {'layers': depths, 'num_classes': 5, **arguments}
    return Torchvision(block, arguments, {'depths': depths, 'num_classes': 5}, variant)


def torchvision_vit(variant: str, fields: Mapping[str, Any], **arguments: Any) -> TorchvisionViT:
    """Describe a ViT of torchvision; `fields` are those in which our config is not `variant`'s."""
    return TorchvisionViT('VisionTransformer', arguments, fields, variant)
