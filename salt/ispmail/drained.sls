# The maps are as pillar says, and no process of Postfix asks with an older table file.
include:
  - ispmail.maps
{%- for key in ['ispmail'] + (salt['pillar.get']('ispmail:instances') or []) %}
{%- set instance = '' if key == 'ispmail' else ' in ' ~ key %}

No process asks with an older table file{{ instance }}:
  postfix_map.drained:
    - pillar: {{ key | json }}
    - timeout: {{ salt['pillar.get']('ispmail:rotation:drain', 60) }}
    - require:
      - postfix_map: Postfix asks the maps that pillar names{{ instance }}
{%- endfor %}
