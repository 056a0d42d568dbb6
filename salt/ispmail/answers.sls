# The live maps give the answers that pillar expects. Every apply asks, even if it changes nothing, because the content
# of the database can change at any time.
include:
  - ispmail.maps
{%- for key in ['ispmail', salt['pillar.get']('ispmail:instances')] | flatten | select('string') | select('match', '[A-Za-z0-9_.-]+\\Z') | list | unique %}
{%- if salt['pillar.get'](key ~ ':answers') %}
{%- set instance = '' if key == 'ispmail' else ' in ' ~ key %}

The maps answer as pillar expects{{ instance }}:
  postfix_map.answers:
    - pillar: {{ key | json }}
    - require:
      - postfix_map: Postfix asks the maps that pillar names{{ instance }}
{%- endif %}
{%- endfor %}
