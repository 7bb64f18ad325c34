"""Core operations: one signature each, a plain PyTorch reference beside every fast version.
Needs torch alone.
"""
