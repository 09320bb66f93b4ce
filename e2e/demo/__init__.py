"""The main job, live: examples of crds/ on five pools of fake nodes, a price that falls, a budget that is too low.

Separate from the stories, which check every corner: this shows a newcomer in three minutes what they check. Whatever it
prints of a workload is read from the API server, and it fails where the tale does not come true.
"""
