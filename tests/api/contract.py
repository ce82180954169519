"""Checks every answer against docs/openapi.yaml and, where they are at hand, against the two contract files.

Answers must fit the contract files but for the relaxations named below; each says why it is there."""
import copy
import json
import os
import pathlib
import re

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT.parent / "shared"))


def _set(schema, path, value):
    """Replaces the schema at a path such as components/schemas/X/properties/y."""
    *outer, last = path.split("/")
    for name in outer:
        schema = schema[name]
    schema[last] = value


NEBIUS = "components/schemas/SupervisedHParameters/properties/"
# (file, path, schema instead, reason)
RELAXATIONS = [
    ("nebius", NEBIUS + "batch_size", {"type": "integer", "minimum": 1, "maximum": 1024}, "large batches on one machine"),
    ("nebius", NEBIUS + "n_epochs", {"type": "integer", "minimum": 1, "maximum": 100}, "small data sets need more epochs"),
    ("nebius", NEBIUS + "context_length", {"type": "integer", "minimum": 16}, "models with 512 positions exist"),
    ("nebius", NEBIUS + "lora_r", {"type": "integer", "minimum": 1, "maximum": 512}, "small models, small ranks"),
    ("nebius", NEBIUS + "lora_alpha", {"type": "number", "exclusiveMinimum": 0}, "alpha below 8 and between integers"),
    ("nebius", NEBIUS + "max_grad_norm", {"type": "number", "minimum": 0}, "0 switches clipping off"),
    ("openai", "components/schemas/FineTuningJob/properties/hyperparameters/properties/n_epochs", {"type": "integer", "minimum": 1, "maximum": 100},
     "small data sets need more epochs"),
    ("openai", "components/schemas/FineTuningJob/properties/hyperparameters/properties/batch_size", {"type": "integer", "minimum": 1, "maximum": 1024},
     "large batches on one machine"),
    ("openai", "components/schemas/FineTuneSupervisedHyperparameters/properties/n_epochs", {"type": "integer", "minimum": 1, "maximum": 100},
     "small data sets need more epochs"),
    ("openai", "components/schemas/FineTuneSupervisedHyperparameters/properties/batch_size", {"type": "integer", "minimum": 1, "maximum": 1024},
     "large batches on one machine"),
    ("openai", "components/schemas/FineTuneDPOHyperparameters/properties/n_epochs", {"type": "integer", "minimum": 1, "maximum": 100},
     "small data sets need more epochs"),
    ("openai", "components/schemas/FineTuneDPOHyperparameters/properties/batch_size", {"type": "integer", "minimum": 1, "maximum": 1024},
     "large batches on one machine"),
    ("nebius", "components/schemas/FineTuningJob/properties/method",
     {"anyOf": [{"$ref": "#/components/schemas/SupervisedMethodConfig"},
                {"type": "object", "required": ["dpo"], "properties": {"type": {"const": "dpo"}, "dpo": {"type": "object"}}}]},
     "Nebius has no preferences"),
    ("openai", "components/schemas/FineTuningJob/properties/integrations", {"type": ["array", "null"]}, "OpenAI has Weights & Biases alone"),
    ("openai", "components/schemas/OpenAIFile/properties/purpose", {"type": "string"}, "evals and user_data are missing in the object's list"),
]


class Spec:
    def __init__(self, name, path, prefix=""):
        self.name, self.prefix = name, prefix
        self.document = yaml.safe_load(path.read_text())
        for which, place, schema, _ in RELAXATIONS:
            if which == name:
                _set(self.document, place, schema)
        self.routes = []
        for template, item in self.document["paths"].items():
            pattern = "^" + re.sub(r"\\\{[a-z_]+\\\}", "([^/]+|.+)" if "model" in template else "[^/]+", re.escape(prefix + template)) + "$"
            self.routes.append((re.compile(pattern), prefix + template, item))
        self.routes.sort(key=lambda route: "{" in route[1])

    def operation(self, method, path):
        for pattern, template, item in self.routes:
            if pattern.match(path) and method.lower() in item:
                return template, item[method.lower()]
        return None, None

    def resolve(self, node):
        while "$ref" in node:
            target = self.document
            for name in node["$ref"][2:].split("/"):
                target = target[name]
            node = target
        return node

    def check(self, method, path, status, content_type, body):
        """Raises when the answer does not fit; returns the route's template, or None when the route is not this file's."""
        template, operation = self.operation(method, path)
        if operation is None:
            return None
        responses = operation["responses"]
        response = responses.get(str(status)) or (responses.get("default") if self.name != "attune" else None)
        if response is None:
            if self.name == "attune":
                raise AssertionError(f"{method} {template} answered {status}, which docs/openapi.yaml does not list: {body[:300]}")
            return None
        content = self.resolve(response).get("content", {})
        media = content.get(content_type.split(";")[0])
        if media is None:
            if self.name == "attune":
                raise AssertionError(f"{method} {template} {status}: content type {content_type} is not listed")
            return None
        if "json" in content_type and "schema" in media:
            schema = {"$ref": "#/root", "root": media["schema"], "components": self.document["components"]}
            errors = list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(body)))
            if errors:
                first = jsonschema.exceptions.best_match(errors)
                raise AssertionError(f"{self.name}: {method} {template} {status}: {'/'.join(map(str, first.absolute_path))}: {first.message}\n{body[:2000]}")
        return template


class Contract:
    def __init__(self):
        self.ours = Spec("attune", ROOT / "docs/openapi.yaml")
        self.others = []
        if (SHARED / "contract").exists():
            self.others = [Spec("nebius", SHARED / "contract/nebius-fine-tuning.openapi.yaml"),
                           Spec("openai", SHARED / "contract/openai-finetune-openapi.yaml", prefix="/v1")]
        self.seen = {}

    def check(self, method, path, status, content_type, body):
        template = self.ours.check(method, path, status, content_type, body)
        if template is None:
            assert status in (404, 405), f"{method} {path} is not in docs/openapi.yaml and answered {status}"
            return
        self.seen.setdefault((method, template), set()).add(status)
        if '"fine_tuning.job.estimate"' in body[:100]:  # ours alone, on a route that the others have
            return
        for spec in self.others:
            spec.check(method, path, status, content_type, body)

    def check_chunk(self, name, chunk):
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.ours.document["components"]}
        jsonschema.Draft202012Validator(schema).validate(copy.deepcopy(chunk))

    def wanted(self):
        """Every (method, route, status) that docs/openapi.yaml lists."""
        for template, item in self.ours.document["paths"].items():
            for method in ("get", "post", "delete"):
                for status in item.get(method, {}).get("responses", {}):
                    yield method.upper(), template, int(status)

    def missing(self):
        return [w for w in self.wanted() if w[2] not in self.seen.get(w[:2], ())]

    def report(self):
        wanted, missing = list(self.wanted()), self.missing()
        return f"contract coverage: {len(wanted) - len(missing)} of {len(wanted)} route x status pairs seen"
