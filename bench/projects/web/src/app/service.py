"""The REST interface's serializer and view."""

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from app.models import Article


class ArticleSerializer(serializers.ModelSerializer):
    class Meta:
        model = Article
        fields = ("name", "price")


class Check(APIView):
    def post(self, request):
        serializer = ArticleSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(serializer.data)


def answer(n):
    return n + 1
