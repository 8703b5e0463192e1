"""Promote a challenger to champion, or roll back."""
