"""A shop of twelve Django applications: models, serializers, views, services, registers.

Some 420 modules of its own. The packages of services import their modules, which import their
package, as grown projects do; the conftest imports the URLs and with them everything.
"""

from . import parts

DOMAINS = (
    "accounts",
    "catalog",
    "inventory",
    "partners",
    "orders",
    "billing",
    "shipping",
    "marketing",
    "support",
    "reports",
    "search",
    "content",
)
ENTITIES = ("item", "batch", "rule", "entry", "profile", "event")

# Imported by one module only and importing none of the project.
LEAF = "app.content.wording"
# Half of the services are there when it is imported, and the other half needs it.
MIDDLE = "app.shipping.services.rule"

EDITED = {
    "test": "tests/test_one.py",
    "conftest": "tests/conftest.py",
    "leaf": f"src/{LEAF.replace('.', '/')}.py",
    "middle": f"src/{MIDDLE.replace('.', '/')}.py",
}

SETTINGS = """# Written by the benchmark: a web project of several hundred own modules.
[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
DJANGO_SETTINGS_MODULE = "app.settings"
"""

CONFTEST = f"""import app.urls  # noqa: F401
import pytest
from rest_framework.test import APIClient

EDITED = ""  {parts.REVISION}


@pytest.fixture
def api():
    return APIClient()


@pytest.fixture
def edited():
    return EDITED
"""

TEST = f"""import json
from pathlib import Path

from {LEAF} import revision as leaf
from {MIDDLE} import revision as middle


def test_check(api, edited):
    body = ""  {parts.REVISION}
    reply = api.post("/check/", {{"name": "pen", "price": "1.20"}}, format="json")
    assert (reply.status_code, reply.json()) == (200, {{"name": "pen", "price": "1.20"}})
    seen = {{"test": body, "conftest": edited, "leaf": leaf(), "middle": middle()}}
    wanted = json.loads(Path(__file__).with_name("wanted.json").read_text())
    assert {{name: seen[name] for name in wanted}} == wanted
"""

SERVICE = '''"""The view that the test asks, beside those of the applications."""

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from app.catalog.models import CatalogItem


class CheckSerializer(serializers.ModelSerializer):
    class Meta:
        model = CatalogItem
        fields = ("name", "price")


class Check(APIView):
    def post(self, request):
        serializer = CheckSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(serializer.data)


def answer(n):
    return n + 1
'''

URLS = """from django.contrib import admin
from django.urls import include, path

from app.service import Check

urlpatterns = [
    path("admin/", admin.site.urls),
    path("check/", Check.as_view()),
{includes}]
"""

APPS = '''from django.apps import AppConfig


class {Domain}Config(AppConfig):
    name = "app.{domain}"
    verbose_name = "{Domain}"

    def ready(self):
        """Signals are connected when all models are there."""
        from app.{domain} import signals  # noqa: F401
'''

SIGNALS = '''"""What happens when something of {domain} is saved or deleted."""

from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from app.core import log
from app.{domain} import models

{receivers}'''

RECEIVER = """
@receiver(post_save, sender=models.{Name})
def {name}_saved(sender, instance, created, **options):
    log.info("%s %s: %s", sender.__name__, instance.pk, "new" if created else "changed")


@receiver(post_delete, sender=models.{Name})
def {name}_deleted(sender, instance, **options):
    log.info("%s %s is gone", sender.__name__, instance.pk)

"""

MODEL = '''"""{Name}: one table of {domain}."""

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from app.{domain}.validators import check_{domain}_rules


class {Name}QuerySet(models.QuerySet):
    """What views and services ask for again and again."""

    def active(self):
        return self.filter(state={Name}.State.ACTIVE)

    def dearer_than(self, price):
        return self.active().filter(price__gt=price)

    def recent(self, days=7):
        since = timezone.now() - timezone.timedelta(days=days)
        return self.filter(created__gte=since).order_by("-created")


class {Name}(models.Model):
    class State(models.TextChoices):
        DRAFT = "draft", _("draft")
        ACTIVE = "active", _("active")
        CLOSED = "closed", _("closed")

    name = models.CharField(_("name"), max_length=80)
    code = models.SlugField(max_length=40, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    price = models.DecimalField(
        max_digits=8, decimal_places=2, validators=[MinValueValidator(Decimal("0.00"))]
    )
    amount = models.PositiveIntegerField(default=0, validators=[check_{domain}_rules])
    notes = models.TextField(blank=True)
    created = models.DateTimeField(default=timezone.now)
    changed = models.DateTimeField(auto_now=True)
{relations}
    objects = {Name}QuerySet.as_manager()

    class Meta:
        ordering = ["name", "pk"]
        verbose_name = _("{entity} of {domain}")
        indexes = [models.Index(fields=["state", "created"], name="{short}_state")]

    def __str__(self):
        return f"{{self.name}} ({{self.get_state_display()}})"

    @property
    def total(self):
        return self.price * self.amount

    @property
    def is_open(self):
        return self.state != self.State.CLOSED

    def close(self, why=""):
        """Ends the life of this one; the reason is kept with the notes."""
        self.state = self.State.CLOSED
        if why:
            self.notes = f"{{self.notes}}\\n{{why}}".strip()
        self.save(update_fields=["state", "notes", "changed"])
'''

SERIALIZER = '''"""{Name} for the outside, in a short and a long form."""

from rest_framework import serializers

from app.{domain}.models import {Name}
from app.{domain}.services.{entity} import check_{name}


class {Name}Summary(serializers.ModelSerializer):
    """What lists show."""

    total = serializers.DecimalField(max_digits=12, decimal_places=2, read_only=True)

    class Meta:
        model = {Name}
        fields = ("id", "name", "state", "price", "total")
        read_only_fields = ("id",)


class {Name}Detail({Name}Summary):
    """What one of them shows, and what is sent to change it."""

    label = serializers.SerializerMethodField()
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True)

    class Meta({Name}Summary.Meta):
        fields = (*{Name}Summary.Meta.fields, "amount", "notes", "created", "label", "reason")

    def get_label(self, instance):
        return f"{{instance.code or instance.pk}}: {{instance.name}}"

    def validate_amount(self, value):
        try:
            return check_{name}(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def validate(self, data):
        """A price needs an amount."""
        if data.get("price") and not data.get("amount", 1):
            raise serializers.ValidationError("a price without an amount")
        return data
'''

VIEW = '''"""{Name} in the REST interface."""

from rest_framework import status, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from app.core import registered
from app.{domain}.models import {Name}
from app.{domain}.permissions import MayChange{Domain}
from app.{domain}.serializers.{entity} import {Name}Detail, {Name}Summary
from app.{domain}.services.{entity} import {Title}Service


@registered("view of {name}")
class {Name}ViewSet(viewsets.ModelViewSet):
    """Lists, shows, changes and closes."""

    queryset = {Name}.objects.all()
    permission_classes = [MayChange{Domain}]
    service = {Title}Service()

    def get_serializer_class(self):
        return {Name}Summary if self.action == "list" else {Name}Detail

    def get_queryset(self):
        found = super().get_queryset()
        state = self.request.query_params.get("state")
        return found.filter(state=state) if state else found

    @action(detail=True, methods=["post"])
    def close(self, request, pk=None):
        """Closes one; closing twice is a conflict."""
        instance = self.get_object()
        if not instance.is_open:
            return Response({{"detail": "it is closed"}}, status=status.HTTP_409_CONFLICT)
        instance.close(request.data.get("reason", ""))
        return Response({Name}Detail(instance).data)

    @action(detail=False)
    def totals(self, request):
        """The sum of all prices by state."""
        totals = {{}}
        for instance in self.get_queryset():
            totals[instance.state] = totals.get(instance.state, 0) + instance.total
        return Response(totals)
'''

ADMIN = """from django.contrib import admin

from app.{domain} import models

{classes}"""

ADMIN_CLASS = """
@admin.register(models.{Name})
class {Name}Admin(admin.ModelAdmin):
    list_display = ("name", "state", "price", "amount", "created")
    list_filter = ("state",)
    search_fields = ("name", "code")
    readonly_fields = ("created", "changed")

    @admin.action(description="close")
    def close(self, request, queryset):
        for instance in queryset:
            instance.close("closed by hand")

"""

PERMISSIONS = '''from rest_framework.permissions import SAFE_METHODS, BasePermission


class MayChange{Domain}(BasePermission):
    """Everybody may read; staff may write."""

    message = "only staff may change {domain}"

    def has_permission(self, request, view):
        if request.method in SAFE_METHODS:
            return True
        return bool(request.user and request.user.is_staff)

    def has_object_permission(self, request, view, instance):
        return self.has_permission(request, view) and instance.is_open
'''

PACKAGE_OF_SERVICES = '''"""The services of {domain}, and what concerns all of them."""

{imports}

ALL = ({names})


def total_of_all(values):
    """The sum over all services that know the values."""
    return sum(service.from_lines(values).total() for service in ALL)
'''

TAIL_OF_SERVICE = '''

def total_with_others(values):
    """Asks the package, which is complete by the time that somebody calls."""
    return services.total_of_all(values)
'''


def write_web(place):
    files = {
        "pyproject.toml": SETTINGS,
        "src/app/__init__.py": "",
        "src/app/core.py": parts.CORE,
        "src/app/service.py": SERVICE,
        "tests/conftest.py": CONFTEST,
        "tests/test_one.py": TEST,
    }
    includes = [f'    path("{it}/", include("app.{it}.urls")),\n' for it in DOMAINS]
    files["src/app/urls.py"] = URLS.format(includes="".join(includes))
    files["src/app/settings.py"] = settings()
    for index, domain in enumerate(DOMAINS):
        for name, text in application(index, domain).items():
            files[f"src/app/{domain}/{name}"] = text
    wording = parts.module("wording", "Words that users read.", [], 0, parts.revision_function())
    files[EDITED["leaf"]] = wording
    parts.write_files(place, files)
    parts.write_wanted(place, {})


def settings():
    """Those of the small web project, with the applications of this one."""
    text = (parts.PROJECTS / "web" / "src" / "app" / "settings.py").read_text()
    own = "".join(f'    "app.{domain}",\n' for domain in DOMAINS)
    changed = text.replace('    "app",\n', own)
    if changed == text:
        raise ValueError("the settings of the small web project no longer name `app`")
    return changed


def application(index, domain):
    shared = {"domain": domain, "Domain": domain.title()}
    entities = [
        {
            **shared,
            "entity": entity,
            "name": f"{domain}_{entity}",
            "Name": parts.title(f"{domain}_{entity}"),
            "Title": parts.title(f"{domain}_{entity}"),
            "short": f"{domain[:6]}_{entity}",
        }
        for entity in ENTITIES
    ]
    models = [f"from .{it['entity']} import {it['Name']}\n" for it in entities]
    services = [f"from .{it['entity']} import {it['Title']}Service" for it in entities]
    routes = [f'router.register("{it["entity"]}", {it["Name"]}ViewSet)\n' for it in entities]
    views = [
        f"from app.{domain}.views.{it['entity']} import {it['Name']}ViewSet" for it in entities
    ]
    names = ", ".join(f"{it['Title']}Service" for it in entities)
    files = {
        "__init__.py": f'"""Everything about {domain}."""\n',
        "apps.py": APPS.format(**shared),
        "admin.py": ADMIN.format(
            **shared, classes="".join(ADMIN_CLASS.format(**it) for it in entities)
        ),
        "permissions.py": PERMISSIONS.format(**shared),
        "signals.py": SIGNALS.format(
            **shared, receivers="".join(RECEIVER.format(**it) for it in entities)
        ),
        "validators.py": parts.module(
            f"{domain}_rules", f"What must be true in {domain}.", [], 1000 + index
        ),
        "urls.py": "from rest_framework.routers import SimpleRouter\n\n"
        + "\n".join(views)
        + f"\n\nrouter = SimpleRouter()\n{''.join(routes)}\nurlpatterns = router.urls\n",
        "models/__init__.py": "".join(models) + f"\n__all__ = {[it['Name'] for it in entities]}\n",
        "services/__init__.py": PACKAGE_OF_SERVICES.format(
            domain=domain, imports="\n".join(services), names=names
        ),
        "serializers/__init__.py": "",
        "views/__init__.py": "",
    }
    for number, words in enumerate(entities):
        entity = words["entity"]
        files[f"models/{entity}.py"] = MODEL.format(
            **words, relations=relations(index, number, words)
        )
        files[f"serializers/{entity}.py"] = SERIALIZER.format(**words)
        files[f"views/{entity}.py"] = VIEW.format(**words)
        files[f"services/{entity}.py"] = service(index, number, words)
    return files


def relations(index, number, words):
    lines = []
    if number:
        before = parts.title(f"{words['domain']}_{ENTITIES[number - 1]}")
        lines.append(
            f'    parent = models.ForeignKey("{before}", models.CASCADE, null=True, '
            'related_name="children")\n'
        )
    if index:
        other = DOMAINS[index - 1]
        name = parts.title(f"{other}_{words['entity']}")
        lines.append(
            f'    origin = models.ForeignKey("{other}.{name}", models.SET_NULL, null=True, '
            'related_name="+")\n'
        )
    return "".join(lines)


def service(index, number, words):
    domain, entity, name = words["domain"], words["entity"], words["name"]
    path = f"app.{domain}.services.{entity}"
    imports = [f"from app.{domain} import services"]
    if index:
        # One application builds upon another, so an edit reaches those after it.
        before = DOMAINS[index - 1]
        imports.append(
            f"from app.{before}.services.{entity} import check_{before}_{entity}  # noqa"
        )
    if domain == "content" and number == len(ENTITIES) - 1:
        imports.append(f"from {LEAF} import check_wording  # noqa")
    tail = TAIL_OF_SERVICE + (parts.revision_function() if path == MIDDLE else "")
    about = f"What is done with a {entity} of {domain}."
    return parts.module(name, about, imports, 100 * index + number, tail)
