"""The table of `test_hostile_configs.py`: what is written, and the line that answers it."""

BASED = "defaults: [search, _self_]\n"

# Text of the file after `defaults: [search, _self_]` (its first line): problem, from its beginning.
IN_A_FILE = {
    # typos
    "top level": ("n_trails: 3", "my.yaml:2: n_trails: unknown key; did you mean 'trials'?"),
    "section": (
        "recipe: {epohcs: 3}",
        "my.yaml:2: recipe.epohcs: unknown key; did you mean 'recip",
    ),
    "section name": (
        "recipes: {epochs: 3}",
        "my.yaml:2: recipes: unknown key; did you mean 'recipe",
    ),
    "wrong place": ("epochs: 3", "my.yaml:2: epochs: unknown key; did you mean 'recipe.epochs'?"),
    "dotted": (
        "recipe.epochs: 3",
        "my.yaml:2: recipe.epochs: unknown key; nest it: recipe: {epochs:",
    ),
    "metric": (
        "objectives: {acuracy: max}",
        "my.yaml:2: objectives.acuracy: unknown metric 'acuracy'",
    ),
    "cost": (
        "constraints: {parms: 3}",
        "my.yaml:2: constraints.parms: unknown metric 'parms'; did",
    ),
    "direction": (
        "objectives: {accuracy: maximize}",
        "my.yaml:2: objectives.accuracy: unknown value",
    ),
    "order": (
        "search: {order: asynch}",
        "my.yaml:2: search.order: unknown value 'asynch'; did you me",
    ),
    # types
    "text for number": ("trials: many", "my.yaml:2: trials: expected a whole number, got 'many'"),
    "fraction": ("trials: 2.5", "my.yaml:2: trials: expected a whole number, got 2.5"),
    "truth for number": ("trials: yes", "my.yaml:2: trials: expected a whole number, got True"),
    "number for truth": (
        "recipe: {flip: 1}",
        "my.yaml:2: recipe.flip: expected true or false, got 1",
    ),
    "list for number": ("seed: [1]", "my.yaml:2: seed: expected a whole number, got [1]"),
    "null": ("trials: null", "my.yaml:2: trials: expected a whole number, got None"),
    "group as text": (
        "sampler: nsga2",
        "my.yaml:2: sampler: expected `key: value` lines, got 'nsga2'; i",
    ),
    "text for section": (
        "recipe: fast",
        "my.yaml:2: recipe: expected `key: value` lines, got 'fast'",
    ),
    "text for bound": (
        "constraints: {params: 200k}",
        "my.yaml:2: constraints.params: expected a num",
    ),
    # ranges
    "no trials": ("trials: 0", "my.yaml:2: trials: must be at least 1, got 0"),
    "negative seed": ("seed: -1", "my.yaml:2: seed: must be at least 0, got -1"),
    "rate": ("recipe: {lr: 0}", "my.yaml:2: recipe.lr: must be more than 0, got 0"),
    "smoothing": (
        "recipe: {label_smoothing: 1}",
        "my.yaml:2: recipe.label_smoothing: must be less",
    ),
    "window": ("search: {window: 0}", "my.yaml:2: search.window: must be at least 1, got 0"),
    "nan": ("recipe: {lr: .nan}", "my.yaml:2: recipe.lr: expected a finite number, got nan"),
    "infinity": (
        "constraints: {macs: .inf}",
        "my.yaml:2: constraints.macs: expected a finite number",
    ),
    "nan in options": (
        "space: {options: {a: [.nan]}}",
        "my.yaml:2: space.options.a.0: expected a fin",
    ),
    "large": (
        "space: {options: {a: 99999999999999999999}}",
        "my.yaml:2: space.options.a: the number",
    ),
    "negative bound": (
        "constraints: {params: -5}",
        "my.yaml:2: constraints.params: an upper bound mu",
    ),
    "bound on accuracy": (
        "constraints: {accuracy: 0.9}",
        "my.yaml:2: constraints.accuracy: constrain",
    ),
    "left open": ("trials: ???", "my.yaml:2: trials: needs a value; trials=..."),
    # contradictions
    "worst": (
        "objectives: {params: max}",
        "my.yaml:2: objectives.params: 'max' would look for the w",
    ),
    "least accurate": (
        "objectives: {accuracy: min}",
        "my.yaml:2: objectives.accuracy: 'min' would",
    ),
    "no objective": ("objectives: {}", "my.yaml:2: objectives: at least one is needed"),
    "percent": (
        "reference_point: {accuracy: 80}",
        "my.yaml:2: reference_point.accuracy: accuracy is",
    ),
    "not an objective": (
        "reference_point: {macs: 1}",
        "my.yaml:2: reference_point.macs: unknown obje",
    ),
    "point in bound": (
        "constraints: {params: 9}\nreference_point: {params: 5}",
        "my.yaml:3: reference_point.params: 5 is better than the constraint (9)",
    ),
    "references": (
        "reference: [resnet17]",
        "my.yaml:2: reference.0: unknown network 'resnet17'; did",
    ),
    "no program": (
        "latency: {runtime: command}",
        "my.yaml:2: latency.command: missing; latency.runtime=command needs",
    ),
    "inline workers": (
        "executor: {name: inline, workers: 4}",
        "my.yaml:2: executor.workers: executor=inline has one worker",
    ),
    "inline cluster": (
        "executor: {name: inline, address: auto}",
        "my.yaml:2: executor.address: executor=inline has no cluster",
    ),
    # names
    "parent": ("name: ../up", "my.yaml:2: name: use letters, digits"),
    "absolute": ("name: /tmp/canary", "my.yaml:2: name: use letters, digits"),
    "dash": ("name: -rf", "my.yaml:2: name: use letters, digits"),
    "long": ("name: " + "x" * 300, "my.yaml:2: name: at most 100 characters, got 300"),
    "look-alike": ("name: sеarch", "my.yaml:2: name: use letters, digits"),
    "device": ("name: CON", "my.yaml:2: name: 'CON' is the name of a device"),
    "escaped nul": (
        'name: "a\\0b"',
        "my.yaml:2: name: 'a\\x00b': control characters are not allowed",
    ),
    # code and the outside world
    "target": (
        "space: {_target_: os.system}",
        "my.yaml:2: space._target_: a configuration names thi",
    ),
    "target in options": (
        "space:\n  options:\n    stages:\n      - _target_: open\n        _args_: [canary, w]",
        "my.yaml:5: space.options.stages.0._target_: a configuration names things, it cannot run",
    ),
    "python tag": ("seed: !!python/object/apply:os.getpid []", "my.yaml:2: tags are not allowed"),
    "environment": (
        "seed: ${oc.env:NASCTL_SECRET}",
        "my.yaml:2: seed: '${oc.env:NASCTL_SECRET}': on",
    ),
    "resolver": (
        'name: "a_${now:%Y}"',
        "my.yaml:2: name: 'a_${now:%Y}': only ${key} with the path",
    ),
    "run folder": (
        "hydra: {run: {dir: canary}}",
        "my.yaml:2: hydra.run: nasctl only takes hydra.sear",
    ),
    "callbacks": (
        "hydra:\n  callbacks: {x: {_target_: builtins.open}}",
        "my.yaml:3: hydra.callbacks.x._target_: a configuration names things",
    ),
    "logging": (
        "hydra: {job_logging: {a: 1}}",
        "my.yaml:2: hydra.job_logging: nasctl only takes hyd",
    ),
    "hydra as text": ("hydra: x", "my.yaml:2: hydra: only hydra.searchpath may be set"),
    "package path": (
        "hydra: {searchpath: ['pkg://os']}",
        "my.yaml:2: hydra.searchpath: 'pkg://os': on",
    ),
    "no such path": (
        "hydra: {searchpath: [nowhere]}",
        "my.yaml:2: hydra.searchpath: 'nowhere': no s",
    ),
    "path not a list": ("hydra: {searchpath: x}", "my.yaml:2: hydra.searchpath: expected a list"),
    # YAML
    "duplicate": ("seed: 1\nseed: 2", "my.yaml:3: seed: already given in line 2"),
    "two documents": ("---\nseed: 1", "my.yaml:2: a second document"),
    "tab": ("recipe:\n\tepochs: 1", "my.yaml:3: not valid YAML"),
    "switch": ("on: 1", "my.yaml:2: on: YAML reads this key as bool; quote it"),
    "huge integer": ("seed: " + "9" * 5000, "my.yaml:2: seed: a number with 5000 digits"),
    "deep": (
        "space: {options: " + "[" * 3000 + "]" * 3000 + "}",
        "my.yaml:2: nested deeper than 50",
    ),
    "cycle": (
        "space: &a {options: {b: *a}}",
        "my.yaml:2: space.options.b: an alias to something tha",
    ),
}

# Override: problem, from its beginning, after `command line: `.
ON_THE_COMMAND_LINE = {
    "trails=3": "trails: unknown key; did you mean 'trials'?",
    "recipe.epohcs=3": "recipe.epohcs: unknown key; did you mean 'recipe.epochs'?",
    "epochs=3": "epochs: unknown key; did you mean 'recipe.epochs'?",
    "+trails=3": "trails: unknown key; did you mean 'trials'?",
    "++recipe.epohcs=3": "recipe.epohcs: unknown key; did you mean 'recipe.epochs'?",
    "+trials=3": "trials: exists already; drop the `+`: trials=3",
    "trials.x=3": "trials: expected a whole number, got {'x': 3}",
    "trials=abc": "trials: expected a whole number, got 'abc'",
    "trials=": "trials: expected a whole number, got ''",
    "trials=0": "trials: must be at least 1, got 0",
    "trials=1e3": "trials: expected a whole number, got 1000.0",
    "seed=" + "9" * 5000: "override 'seed=9",
    "recipe.lr=nan": "recipe.lr: expected a finite number, got nan",
    "recipe.lr=0.1,0.2": "recipe.lr: '0.1,0.2' is several values; for a list [0.1,0.2], for a text",
    "trials=range(1,3)": "trials: 'range(1,3)' is several values; for a list [a,b]",
    "tracking.uri=http://x/?a=b": "override 'tracking.uri=http://x/?a=b': cannot be read; quote",
    "trials": "override 'trials': expected KEY=VALUE",
    "=3": "override '=3': expected KEY=VALUE",
    "": "override '': expected KEY=VALUE",
    "--fast": "override '--fast': expected KEY=VALUE",
    "sampler=nsga3x": "sampler: unknown option 'nsga3x'; did you mean 'nsga3'? (known: gp, grid, ",
    "data=mine": "data: unknown option 'mine'",
    "sampler=[tpe,random]": "sampler: expected the name of an option, got ['tpe', 'random']",
    "sampler=3": "sampler: expected the name of an option, got 3",
    "sampler=../../etc/passwd": "sampler: expected the name of an option, got '../../etc/passwd'",
    "+sampler@x=tpe": "sampler: `@` is not supported",
    "~trails": "trails: there is nothing to remove",
    "~sampler": "sampler: missing",
    "~seed": "seed: missing",
    "~objectives": "objectives: missing",
    "hydra.run.dir=canary": "hydra.run.dir: Hydra's own settings cannot be set",
    "+hydra.searchpath=[/]": "hydra.searchpath: Hydra's own settings cannot be set",
    "hydra/job_logging=none": "hydra/job_logging: Hydra's own settings cannot be set",
    "+space._target_=os.system": "space._target_: a configuration names things, it cannot run code",
    "space.options={a:{_target_:x}}": "space.options: a configuration names things",
    "name=${oc.env:NASCTL_SECRET}": "override 'name=${oc.env:NASCTL_SECRET}': only ${key}",
    "name='${now:%Y}'": "override \"name='${now:%Y}'\": only ${key}",
    "name=a\0b": "override 'name=a\\x00b': control characters are not allowed",
    "name=a/b": "name: use letters, digits",
    "name=[a]": "name: expected text, got ['a']",
    "output_dir=": "output_dir: must not be empty, got ''",
    "data.a=" + "[" * 500 + "]" * 500: "override 'data.a=[",
    "tracking.name=wandb": "tracking.name: unknown value 'wandb' (known: mlflow, none)",
    "fidelity.name=halfing": "fidelity.name: unknown value 'halfing'",
    "executor.cpus=-1": "executor.cpus: must be more than 0, got -1",
    "reference=[resnet17]": "reference.0: unknown network 'resnet17'; did you mean 'resnet1",
}

# Whole text of the file: problem, from its beginning.
DEFAULTS = {
    "none": ("trials: 3", "my.yaml:1: defaults: start the file with `defaults: [search, _self_]`"),
    "without search": ("defaults: [_self_]\ntrials: 3", "my.yaml:1: defaults: start the file with"),
    "no _self_": (
        "defaults: [search]\ntrials: 3",
        "my.yaml:1: defaults: `_self_` is missing; put it",
    ),
    "_self_ first": (
        "defaults: [_self_, search]\ntrials: 3",
        "my.yaml:1: defaults: `_self_` comes be",
    ),
    "misspelt": (
        "defaults: [serach, _self_]",
        "my.yaml:1: defaults: unknown file 'serach'; did you m",
    ),
    "a mapping": (
        "defaults: {search: x}",
        "my.yaml:1: defaults: expected a list such as [search, _",
    ),
    "a text": ("defaults: search", "my.yaml:1: defaults: expected a list such as [search, _self_]"),
    "a number": (
        "defaults: [search, 3, _self_]",
        "my.yaml:1: defaults: expected a name or `group:",
    ),
    "null": ("defaults: null\ntrials: 3", "my.yaml:1: defaults: expected a list"),
    "option": (
        "defaults:\n- search\n- override sampler: nsga\n- _self_",
        "my.yaml:3: sampler: unknown ",
    ),
    "group": (
        "defaults: [search, {override samplr: tpe}, _self_]",
        "my.yaml: defaults: override unkno",
    ),
    "no override": (
        "defaults: [search, {sampler: nsga2}, _self_]",
        "my.yaml: defaults: sampler is ch",
    ),
    "override first": (
        "defaults: [{override sampler: tpe}, search, _self_]",
        "my.yaml: defaults: ",
    ),
    "twice": ("defaults: [search, _self_, _self_]", "my.yaml: defaults: "),
    "outside": (
        "defaults: [search, ../../etc/passwd, _self_]",
        "my.yaml:1: defaults: '../../etc/pas",
    ),
    "scheme": (
        "defaults: [search, 'pkg://os', _self_]",
        "my.yaml:1: defaults: 'pkg://os': expected th",
    ),
    "reference": ("defaults: [search, {sampler: '${x}'}, _self_]", "my.yaml:1: defaults: "),
    "resolver": (
        "defaults: [search, {sampler: '${oc.env:X}'}]",
        "my.yaml:1: defaults.1.sampler: '${oc.",
    ),
    "header": ("# @package recipe\n" + BASED, "my.yaml:1: remove the `# @package` line"),
    "many": (
        "defaults: [" + "search, " * 200 + "_self_]",
        "my.yaml:1: defaults: more than 100 entries",
    ),
}
