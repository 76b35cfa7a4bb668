from django.contrib import admin
from django.urls import path

from app.service import Check

urlpatterns = [path("admin/", admin.site.urls), path("check/", Check.as_view())]
