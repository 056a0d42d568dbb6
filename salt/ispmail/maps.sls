# Bring table files and main.cf to what pillar says, together or not at all; for each instance of Postfix.
include:
  - ispmail.modules
{#- To render a file takes longer than to see that it has nothing to do. #}
{%- if salt['pillar.get']('ispmail:packages', True) %}
  - ispmail.packages
{%- endif %}

Postfix asks the maps that pillar names:
  postfix_map.managed
{%- for key in [salt['pillar.get']('ispmail:instances')] | flatten | select('string') | select('match', '[A-Za-z0-9_.-]+\\Z') | list | unique %}

Postfix asks the maps that pillar names in {{ key }}:
  postfix_map.managed:
    - pillar: {{ key | json }}
    - require:
      - postfix_map: Postfix asks the maps that pillar names
{%- endfor %}
