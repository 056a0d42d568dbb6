# The main job, `salt '*' state.apply ispmail`: Postfix asks SQL maps, they answer as pillar expects, and
# the other programs that log in with the same account have its password.
{%- set instances = salt['pillar.get']('ispmail:instances') %}
include:
  - ispmail.maps
{#- See ispmail.maps. #}
{%- if instances or salt['pillar.get']('ispmail:consumers') %}
  - ispmail.consumers
{%- endif %}
{%- if instances or salt['pillar.get']('ispmail:answers') %}
  - ispmail.answers
{%- endif %}
