"""Cases across several files. Most are attacks that refuted an earlier rule for preloading.

A motif says what goes into a module of the project (by its path), into a conftest (`conftest`), to
the beginning of a test module (`head`) and to its functions (`body`); each in several versions, of
which the first is drawn most. `$n` is a number that no other motif of the project has.
"""

from __future__ import annotations

Versions = tuple[str, ...]

MOTIFS: dict[str, dict[str, Versions]] = {
    # ------------------------------------------------ what runs between two imports
    "configured between imports": {
        "app/cfg$n.py": (
            "debug = False\n\ndef configure(value):\n    global debug\n    debug = value\n",
        ),
        "app/models$n.py": ("from app.cfg$n import debug\nTABLE = 'debug' if debug else 'no'\n",),
        "conftest": (
            "import app.cfg$n\napp.cfg$n.configure(True)\nimport app.models$n\n",
            "import app.cfg$n\nimport app.models$n\napp.cfg$n.configure(True)\n",
            "import app.cfg$n\napp.cfg$n.configure(True)\n",
        ),
        "head": ("import app.models$n\n",),
        "body": ("def test_models_$n():\n    assert app.models$n.TABLE == 'debug'\n",),
    },
    "attribute set by a conftest": {
        "app/auth$n.py": ("ENFORCE = True\n",),
        "app/views$n.py": (
            "from app.auth$n import ENFORCE\n\ndef allowed():\n    return not ENFORCE\n",
        ),
        "conftest": (
            "import app.auth$n as auth\nauth.ENFORCE = False\n",
            "import app.auth$n as auth\n",
        ),
        "head": ("from app import views$n\n",),
        "body": ("def test_views_$n():\n    assert not views$n.allowed()\n",),
    },
    "stub in sys.modules": {
        "app/dev$n.py": ("import stub_hw\nKIND = type(stub_hw).__name__, stub_hw.__name__\n",),
        "stub_hw.py": ("__name__ = 'real hw'\n",),
        "conftest": (
            "import sys, types\nsys.modules['stub_hw'] = types.ModuleType('stub_$n')\n",
            "import sys\nfrom unittest.mock import MagicMock\n"
            "sys.modules['stub_hw'] = MagicMock(__name__='mock $n')\n",
            "import stub_hw\n",
        ),
        "head": ("from app.dev$n import KIND\n", "import app.dev$n\nKIND = app.dev$n.KIND\n"),
        "body": ("def test_dev_$n():\n    assert KIND == ('module', 'stub_$n')\n",),
    },
    "read between imports": {
        "app/writes$n.py": ("from app import reg\nreg.NAMES.append('writes $n')\n",),
        "conftest": ("from app import reg\nBEFORE_$n = list(reg.NAMES)\nimport app.writes$n\n",),
        "head": (
            "from app import reg\nBEFORE_$n = list(reg.NAMES)\nimport app.writes$n\n",
            "from app import reg\nimport app.writes$n\nBEFORE_$n = list(reg.NAMES)\n",
        ),
        "body": ("def test_before_$n():\n    assert 'writes $n' not in BEFORE_$n, BEFORE_$n\n",),
    },
    "configured by a hook": {
        "app/hooked$n.py": ("import os\nfrom app import reg\nMODE = dict(reg.SETTINGS)\n",),
        "conftest": (
            "from app import reg\n\ndef pytest_configure(config):\n"
            "    reg.SETTINGS['debug $n'] = True\n",
            "from app import reg\n\ndef pytest_sessionstart(session):\n"
            "    reg.SETTINGS['session $n'] = True\n",
            "from app import reg\n\ndef pytest_collect_file(file_path):\n"
            "    reg.SETTINGS[file_path.name] = $n\n",
            "from app import reg\n\ndef pytest_collection_modifyitems(items):\n"
            "    reg.SETTINGS['items'] = len(items)\n    items.reverse()\n",
            "import app.hooked$n\n",
        ),
        "head": ("import app.hooked$n\n",),
        "body": ("def test_hooked_$n():\n    assert app.hooked$n.MODE == {'debug $n': True}\n",),
    },
    "patched before the second import": {
        "app/first$n.py": ("def work():\n    return 'original'\n",),
        "app/second$n.py": ("from app.first$n import work\nRESULT = work()\n",),
        "app/compat$n.py": (
            "import app.first$n\napp.first$n.work = lambda: 'patched'\nimport app.second$n\n",
            "import app.first$n, app.second$n\napp.first$n.work = lambda: 'patched'\n",
        ),
        "head": ("import app.compat$n\nfrom app.second$n import RESULT\n",),
        "body": ("def test_patched_$n():\n    assert RESULT == 'patched'\n",),
    },
    # ------------------------------------------------ what writes into other modules
    "writers in another order": {
        "app/pa$n.py": ("from app import reg\nreg.NAMES.append('a $n')\n",),
        "app/pb$n.py": ("from app import reg\nreg.NAMES.append('b $n')\n",),
        "conftest": ("", "import app.pa$n\n", "import app.pb$n, app.pa$n\n"),
        "head": (
            "import app.pa$n, app.pb$n\n",
            "import app.pb$n, app.pa$n\n",
            "import app.pb$n\n",
            "from app import pa$n\n",
        ),
        "body": (
            "def test_order_$n():\n    from app import reg\n"
            "    assert [n for n in reg.NAMES if '$n' in n] == ['a $n', 'b $n']\n",
        ),
    },
    "table defined twice": {
        "app/user$n.py": (
            "from app.reg import Base\n\nclass User(Base, table='user $n'):\n    id = 1\n",
            "from app.reg import Base\n\nclass User(Base, table='user $n'):\n    id = 2\n",
            "from app.reg import Base\n\nclass User(Base, table='other $n'):\n    id = 1\n",
        ),
        "app/order$n.py": (
            "from app.user$n import User\nfrom app.reg import Base\n\n"
            "class Order(Base, table='order $n'):\n    user = User\n",
        ),
        "head": ("import app.order$n\n", "import app.user$n\n"),
        "body": (
            "def test_tables_$n():\n    from app.reg import Base\n"
            "    assert sorted(Base.tables) == ['order $n', 'user $n']\n"
            "    print([cls.__name__ for cls in Base.__subclasses__()])\n",
        ),
    },
    "registered at a distance": {
        "app/event$n.py": (
            "from app import reg\n\n@reg.register\ndef on_event_$n():\n    return 1\n",
            "from app import reg\n\ndef on_event_$n():\n    return 1\n",
        ),
        "app/all$n.py": ("import app.event$n\n", ""),
        "conftest": ("", "import app.all$n\n"),
        "head": ("from app import reg\nimport app.all$n\n", "from app import reg\n"),
        "body": (
            "def test_event_$n():\n    assert 'on_event_$n' in [f.__name__ for f in reg.PLUGS]\n",
        ),
    },
    "installed package with writers": {
        "app/uses$n.py": (
            "import widelib\nCORE_$n = list(widelib.NAMES)\n",
            "import widelib.more\nCORE_$n = list(widelib.NAMES)\n",
        ),
        "conftest": ("", "import widelib\nwidelib.NAMES.append('conftest $n')\n"),
        "head": (
            "import app.uses$n, widelib\n",
            "import widelib.more, widelib\n",
            "import widelib\n",
        ),
        "body": (
            "def test_wide_$n():\n    assert widelib.NAMES == ['core', 'more']\n"
            "    assert widelib.listen() == 'listening'\n",
        ),
    },
    "dispatched and registered types": {
        "app/kinds$n.py": (
            "from app import reg\n\nclass Kind(dict):\n    pass\n\n"
            "reg.shown.register(Kind, lambda value: 'kind $n')\nreg.Shape.register(Kind)\n",
            "class Kind(dict):\n    pass\n",
        ),
        "head": ("from app.kinds$n import Kind\nfrom app import reg\n",),
        "body": (
            "def test_kinds_$n():\n    assert reg.shown(Kind()) == 'kind $n'\n"
            "    assert isinstance(Kind(), reg.Shape) and not isinstance({}, reg.Shape)\n",
        ),
    },
    # ------------------------------------------------ warnings
    "deprecated module": {
        "app/old$n.py": (
            "import warnings\nwarnings.warn('old $n', DeprecationWarning, stacklevel=2)\n",
            "import warnings\nwarnings.warn('old $n', UserWarning, stacklevel=2)\n",
            "OLD = 'no warning'\n",
        ),
        "app/usesold$n.py": (
            "import app.old$n\n",
            "try:\n    import app.old$n\nexcept Warning:\n    FAILED = True\n",
        ),
        "conftest": (
            "",
            "import app.usesold$n\n",
            "import warnings\nwarnings.filterwarnings('ignore', 'old $n')\n",
        ),
        "head": (
            "import app.usesold$n\n",
            "import app.old$n\n",
            "import app.usesold$n, app.old$n\n",
        ),
        "body": (
            "def test_old_$n(recwarn):\n    import app.old$n\n    assert not list(recwarn)\n",
        ),
    },
    # ------------------------------------------------ what is decided while tests run
    "import inside a test": {
        "app/late$n.py": ("from app import reg\nreg.NAMES.append('late $n')\n",),
        "head": ("from app import reg\n",),
        "body": (
            "def test_before_late_$n():\n    assert 'late $n' not in reg.NAMES\n\n"
            "def test_late_$n():\n    import app.late$n\n    assert 'late $n' in reg.NAMES\n\n"
            "def test_after_late_$n():\n    assert 'late $n' in reg.NAMES\n",
        ),
    },
    "fixtures": {
        "app/fixed$n.py": ("STATE = {'count': 0}\n",),
        "conftest": (
            "import pytest\n\n@pytest.fixture(autouse=True)\ndef fixed_$n():\n"
            "    import app.fixed$n\n    app.fixed$n.STATE['count'] += 1\n    yield\n"
            "    print('torn down $n', app.fixed$n.STATE)\n",
            "import pytest\nimport app.fixed$n\n\n@pytest.fixture(scope='session', autouse=True)\n"
            "def fixed_$n():\n    app.fixed$n.STATE['session'] = 1\n    yield 5\n",
        ),
        "body": (
            "def test_fixed_$n(fixed_$n, tmp_path, monkeypatch):\n    import app.fixed$n, os\n"
            "    monkeypatch.setenv('MODEL_C', 'fixture')\n    monkeypatch.chdir(tmp_path)\n"
            "    assert app.fixed$n.STATE == {'count': 1}\n",
        ),
    },
    "parametrized by state": {
        "app/cases$n.py": (
            "from app import reg\nCASES = ['case'] + reg.NAMES\n",
            "CASES = ['only']\n",
        ),
        "head": (
            "import pytest\nfrom app.cases$n import CASES\n\n"
            "@pytest.mark.parametrize('case', CASES)\ndef test_case_$n(case):\n    assert case\n\n",
        ),
        "body": (
            "import unittest\n\nclass Test$n(unittest.TestCase):\n    names = list(CASES)\n\n"
            "    def test_names(self):\n        self.assertEqual(self.names, ['case'])\n",
        ),
    },
    # ------------------------------------------------ test modules that are more than imports
    "test module that decides": {
        "app/plug$n.py": ("from app import reg\nreg.NAMES.append('plug $n')\n",),
        "head": (
            "from app import reg\nimport os\nif os.path.exists('flag.txt'):\n"
            "    import app.plug$n\n",
            "import os\nif os.environ.get('MODEL_A'):\n    import app.plug$n\n"
            "from app import reg\n",
            "import pytest\nfrom app import reg\n"
            "if 'MODEL_B' in __import__('os').environ:\n"
            "    pytest.skip('wip $n', allow_module_level=True)\nimport app.plug$n\n",
            "import pytest\npytest.importorskip('late')\nfrom app import reg\nimport app.plug$n\n",
            "from app import reg\nreg.NAMES.append('test $n')\nimport app.plug$n\n",
            "from app import reg\nimport sys\nif sys.argv[1:]:\n    import app.plug$n\n",
            "from app import reg\n\nclass Own(reg.Base):\n    pass\n\nimport app.plug$n\n",
            "from app.reg import *\npytestmark = []\nfrom app import reg, plug$n\n",
        ),
        "body": ("def test_plug_$n():\n    assert reg.NAMES == ['plug $n']\n",),
    },
    "doctest": {
        "app/doc$n.py": (
            'def double(x):\n    """\n    >>> double(2)\n    4\n    """\n    return 2 * x\n',
            'def double(x):\n    """\n    >>> double(2)\n    5\n    """\n    return 2 * x\n',
        ),
        "head": ("from app.doc$n import double\n",),
        "body": ("def test_double_$n():\n    assert double(4) == 8\n",),
    },
    # ------------------------------------------------ environment and path
    "variable set by a conftest": {
        "app/table$n.py": (
            "import os\nfrom app import reg\nNAME = os.environ.get('MODEL_T$n', 'user')\n"
            "reg.NAMES.append(NAME)\n",
        ),
        "conftest": (
            "import os\nos.environ['MODEL_T$n'] = 't'\n",
            "import os, app.table$n\nos.environ['MODEL_T$n'] = 't'\n",
            "import os\nos.environ.setdefault('MODEL_T$n', os.environ.get('MODEL_A', 'none'))\n",
        ),
        "head": ("import app.table$n\n",),
        "body": ("def test_table_$n():\n    assert app.table$n.NAME == 't'\n",),
    },
    "path set by a conftest": {
        "app/extra/far$n.py": ("from app import reg\nreg.NAMES.append('far $n')\nWORD = 'far'\n",),
        "far$n.py": ("WORD = 'near'\n",),
        "conftest": (
            "import app.reg, os, sys\nEXTRA = os.path.dirname(app.reg.__file__) + '/extra'\n"
            "sys.path.insert(0, EXTRA)\n",
            "import app.reg, os, sys\nEXTRA = os.path.dirname(app.reg.__file__) + '/extra'\n"
            "sys.path.append(EXTRA)\n",
            "import far$n, app.reg, os, sys\n"
            "sys.path[:0] = [os.path.dirname(app.reg.__file__) + '/extra']\n",
        ),
        "head": ("from far$n import WORD\n",),
        "body": ("def test_far_$n():\n    assert WORD == 'far'\n",),
    },
    "local settings": {
        "app/settings$n.py": (
            "import os, pathlib\nBASE = pathlib.Path(__file__).parent\nLOCAL_$n = False\n"
            "if (BASE / 'flag.txt').exists():\n    LOCAL_$n = True\n",
            "try:\n    from app.local import *\nexcept ImportError:\n    LOCAL_$n = False\n",
            "import os\nLOCAL_$n = os.path.isfile('flag.txt') or os.path.basename(os.getcwd())\n",
        ),
        "conftest": ("", "import app.settings$n\n"),
        "head": ("from app import settings$n\n",),
        "body": ("def test_local_$n():\n    assert settings$n.LOCAL_$n is False\n",),
    },
    # ------------------------------------------------ what fails half-way
    "half an import": {
        "app/half$n.py": (
            "from app import reg\nreg.NAMES.append('half $n')\nimport stubbed$n\n",
            "from app import reg\nreg.NAMES.append('half $n')\nraise ImportError('half $n')\n",
        ),
        "app/tries$n.py": (
            "try:\n    import app.half$n\nexcept ImportError:\n    pass\n",
            "import app.half$n\n",
        ),
        "conftest": (
            "import sys, types\nsys.modules['stubbed$n'] = types.ModuleType('stubbed$n')\n",
            "",
        ),
        "head": ("import app.tries$n\n",),
        "body": (
            "def test_half_$n():\n    from app import reg\n"
            "    assert reg.NAMES.count('half $n') == 1, reg.NAMES\n",
        ),
    },
    "cycle": {
        "app/ring$n.py": (
            "VALUES = ['before']\nfrom app import back$n\n"
            "VALUES.append(getattr(back$n, 'SAW', None))\n",
        ),
        "app/back$n.py": ("import app.ring$n as ring\nSAW = len(getattr(ring, 'VALUES', []))\n",),
        "conftest": ("", "import app.back$n\n"),
        "head": ("import app.ring$n\n", "import app.back$n, app.ring$n\n"),
        "body": ("def test_ring_$n():\n    assert app.ring$n.VALUES == ['before', 1]\n",),
    },
    # ------------------------------------------------ what a conftest has pytest do
    "rewritten helper": {
        "helpers$n.py": ("def check(value):\n    assert value == [1, $n], 'helper'\n",),
        "conftest": (
            "import pytest\npytest.register_assert_rewrite('helpers$n')\nimport helpers$n\n",
            "import helpers$n\n",
        ),
        "head": ("import helpers$n\n",),
        "body": ("def test_helper_$n():\n    helpers$n.check([1, 2, 3])\n",),
    },
    "conftest with hooks": {
        "conftest": (
            "def pytest_report_header(config):\n    return 'header $n'\n",
            "import sys\n\ndef pytest_addoption(parser):\n"
            "    parser.addoption('--model-$n', default='unset')\n\ndef pytest_configure(config):\n"
            "    sys.model = config.getoption('--model-$n')\n"
            "    config.addinivalue_line('markers', 'm$n: a mark')\n",
            "from app import reg\n\ndef pytest_generate_tests(metafunc):\n"
            "    if 'made$n' in metafunc.fixturenames:\n"
            "        metafunc.parametrize('made$n', sorted(reg.NAMES) or ['none'])\n",
            "def pytest_unconfigure(config):\n    print('unconfigured $n')\n",
            "def pytest_ignore_collect(collection_path):\n"
            "    return collection_path.name.endswith('2.py') or None\n",
            "from app import reg\n\ndef pytest_runtest_setup(item):\n"
            "    reg.NAMES.append(item.name)\n",
            "collect_ignore = ['test_2.py', 'tests/test_2.py']\n",
            "import atexit\natexit.register(print, 'conftest $n leaves')\n",
        ),
        "head": ("made$n = 5\n",),
        "body": (
            "def test_made_$n():\n    assert made$n == 5\n",
            "def test_made_$n(made$n):\n    assert made$n == 'none'\n",
        ),
    },
}
